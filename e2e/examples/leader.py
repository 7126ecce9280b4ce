"""Does five steps a second while this pod leads. It holds the stream: it leads as soon as it can, and when it dies, another
pod leads at once. CONCH_URL, LEDGER_URL: see leader.go."""

import json
import os
import threading
import time
from urllib.request import Request, urlopen

NO = (None, 0, False)


def understand(event):
    """Token, deadline, and whether the pod ends. What is not clearly a yes is a no."""
    try:
        answer = json.loads(event)
        if answer["leader"] is True and len(answer["token"]) == 20:
            return answer["token"], int(answer["deadlineBoottimeNs"]), answer["terminating"]
        return None, 0, answer["terminating"]
    except (ValueError, KeyError, TypeError):
        return NO


def listen():
    """Keeps the answer of the last event, and opens another stream when one ends. It never closes one: that would say that
    this program has stopped, while a step may be on its way."""
    global answer
    while True:
        try:
            for line in urlopen(os.environ["CONCH_URL"] + "/v1/lead"):
                if line.startswith(b"data: "):
                    answer = understand(line.removeprefix(b"data: "))
        except Exception as error:
            print("no stream:", error, flush=True)
        answer = NO
        time.sleep(1)


def step(token):
    """One effect, shorter than the policy's stopGrace (3 s): 1 s to connect, 1 s to answer. The ledger refuses a token lower than it has seen: 412."""
    try:
        urlopen(Request(os.environ["LEDGER_URL"], b"one step", {"Conch-Token": token}), timeout=1).close()
    except Exception as error:
        print("no step:", error, flush=True)


answer = NO
threading.Thread(target=listen, daemon=True).start()
terminating = False
while not terminating:
    token, deadline, terminating = answer
    # This clock goes on while the machine is suspended; that of time.monotonic() stands still.
    if time.clock_gettime_ns(time.CLOCK_BOOTTIME) < deadline and not terminating:
        step(token)
    time.sleep(0.2)
