// Does five steps a second while this pod leads. It asks before every step. CONCH_URL is the sidecar, and set by Conch;
// LEDGER_URL is a resource that checks tokens as docs/fencing.md has it for HTTP.
package main

import (
	"encoding/json"
	"log"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

type answer struct {
	Leader, Terminating bool
	Token               string
	ValidForMs          int64
}

var client = http.Client{Timeout: 2 * time.Second} // a step must take less than the policy's stopGrace, 3 s

// ask also says until when the answer is good. The clock in a time.Time stands still while the machine is suspended;
// where machines are, count with /proc/uptime as leader.rs does.
func ask() (now answer, deadline time.Time) {
	asked := time.Now() // before the question: nobody knows how long the answer was on its way
	response, err := client.Get(os.Getenv("CONCH_URL") + "/v1/leader")
	if err == nil {
		defer response.Body.Close()
		err = json.NewDecoder(response.Body).Decode(&now)
	}
	if err != nil || response.StatusCode != http.StatusOK || !now.Leader || len(now.Token) != 20 {
		return answer{Terminating: now.Terminating}, asked // what is not clearly a yes is a no
	}
	return now, asked.Add(time.Duration(now.ValidForMs) * time.Millisecond)
}

// step is one effect. The ledger refuses a token lower than the highest that it has seen: 412.
func step(token string) {
	request, _ := http.NewRequest("POST", os.Getenv("LEDGER_URL"), strings.NewReader("one step"))
	request.Header.Set("Conch-Token", token)
	if response, err := client.Do(request); err != nil {
		log.Print("no step: ", err)
	} else if response.Body.Close(); response.StatusCode != http.StatusOK {
		log.Print("the ledger answered ", response.Status)
	}
}

func main() {
	signal.Ignore(syscall.SIGTERM) // the answer says `terminating`, and then work ends between two steps
	for now, deadline := ask(); !now.Terminating; now, deadline = ask() {
		if now.Leader && time.Now().Before(deadline) {
			step(now.Token)
		}
		time.Sleep(200 * time.Millisecond)
	}
}
