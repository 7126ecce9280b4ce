// The benchmark's peer: a leader-election sidecar over client-go, as its documentation and the well-known sidecars
// build one. The lock is a Lease, the identity is the pod's name, the lock is released on SIGTERM, and a process that
// lost its term runs for the next one. The program asks over HTTP on the loopback address, in one of two ways that
// people use:
//
//	GET /callbacks   a flag that OnStartedLeading sets and OnStoppedLeading clears
//	GET /is-leader   LeaderElector.IsLeader()
//
// Each answers 200 if this pod leads, else 503. client-go says neither until when an answer holds nor which term it is.
package main

import (
	"context"
	"errors"
	"flag"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/klog/v2"
)

// The defaults that client-go documents are those of these flags.
var (
	lease         = flag.String("lease", "", "name of the Lease")
	address       = flag.String("address", "127.0.0.1:4040", "where to answer")
	leaseDuration = flag.Duration("lease-duration", 15*time.Second, "how long a follower waits before it takes over")
	renewDeadline = flag.Duration("renew-deadline", 10*time.Second, "how long a leader tries to renew before it gives up")
	retryPeriod   = flag.Duration("retry-period", 2*time.Second, "from one attempt to the next")
)

func main() {
	flag.Parse()
	if err := run(); err != nil {
		klog.ErrorS(err, "The sidecar ends")
		os.Exit(1)
	}
}

func run() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var state state
	configuration, err := configuration(&state)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: state.handler(), ReadHeaderTimeout: 5 * time.Second}
	listener, err := net.Listen("tcp", *address)
	if err != nil {
		return err
	}
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			klog.ErrorS(err, "The endpoint ends")
			os.Exit(1)
		}
	}()
	// Run returns when the term was lost; then a new elector is a candidate, as with RunOrDie in a loop.
	for ctx.Err() == nil {
		elector, err := leaderelection.NewLeaderElector(configuration)
		if err != nil {
			return err
		}
		state.elector.Store(elector)
		elector.Run(ctx)
	}
	return nil
}

// state is what the endpoint answers from.
type state struct {
	elector atomic.Pointer[leaderelection.LeaderElector]
	leading atomic.Bool
}

func configuration(state *state) (leaderelection.LeaderElectionConfig, error) {
	config, err := rest.InClusterConfig()
	if err != nil {
		return leaderelection.LeaderElectionConfig{}, err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return leaderelection.LeaderElectionConfig{}, err
	}
	lock := &resourcelock.LeaseLock{
		LeaseMeta:  metav1.ObjectMeta{Name: *lease, Namespace: os.Getenv("POD_NAMESPACE")},
		Client:     client.CoordinationV1(),
		LockConfig: resourcelock.ResourceLockConfig{Identity: os.Getenv("POD_NAME")},
	}
	return leaderelection.LeaderElectionConfig{
		Lock:            lock,
		ReleaseOnCancel: true,
		LeaseDuration:   *leaseDuration,
		RenewDeadline:   *renewDeadline,
		RetryPeriod:     *retryPeriod,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(context.Context) { state.leading.Store(true) },
			OnStoppedLeading: func() { state.leading.Store(false) },
		},
	}, nil
}

func (state *state) isLeader() bool {
	elector := state.elector.Load()
	return elector != nil && elector.IsLeader()
}

func (state *state) handler() http.Handler {
	answer := func(leads func() bool) http.HandlerFunc {
		return func(response http.ResponseWriter, _ *http.Request) {
			if !leads() {
				response.WriteHeader(http.StatusServiceUnavailable)
			}
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /callbacks", answer(state.leading.Load))
	mux.HandleFunc("GET /is-leader", answer(state.isLeader))
	return mux
}
