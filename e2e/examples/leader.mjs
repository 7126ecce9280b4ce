// Does five steps a second while this pod leads. It holds the stream: it leads as soon as it can, and when it dies, another
// pod leads at once. CONCH_URL and LEDGER_URL are as in leader.go.
import { uptime } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'

const no = { token: '', deadline: 0, terminating: false }
let answer = no

// What is not clearly a yes is a no.
function understand(event) {
  try {
    const { leader, token, validForMs, deadlineBoottimeNs, terminating } = JSON.parse(event)
    const yes = leader === true && /^\d{20}$/.test(token) && /^\d+$/.test(deadlineBoottimeNs)
    const deadline = yes ? Number(deadlineBoottimeNs) / 1e9 : 0
    // A container may have a /proc/uptime of its own, which begins at 0: no deadline is so far ahead.
    if (deadline - uptime() > validForMs / 1000 + 0.02) throw new Error('another clock')
    return { token, deadline, terminating }
  } catch {
    return no
  }
}

// Keeps the last answer of the stream, and opens another stream when one ends. It never closes one: that would say that
// this program has stopped, while a step may be on its way.
async function listen() {
  for (;; await sleep(1000)) {
    try {
      const stream = await fetch(`${process.env.CONCH_URL}/v1/lead`)
      let text = ''
      for await (const part of stream.ok ? stream.body.pipeThrough(new TextDecoderStream()) : []) {
        const lines = (text + part).split('\n')
        text = lines.pop()
        for (const line of lines) {
          if (line.startsWith('data: ')) answer = understand(line.slice('data: '.length))
        }
      }
    } catch (error) {
      console.log('no stream:', error.message)
    }
    answer = no
  }
}

// One effect, shorter than the policy's stopGrace (3 s). The ledger refuses a token lower than it has seen: 412.
async function step(token) {
  const headers = { 'Conch-Token': token }
  const request = { method: 'POST', headers, body: 'one step', signal: AbortSignal.timeout(2000) }
  const response = await fetch(process.env.LEDGER_URL, request).catch((error) => ({ statusText: error.message }))
  if (!response.ok) console.log('no step:', response.status, response.statusText)
}

listen()
while (!answer.terminating) {
  const { token, deadline } = answer
  // This is CLOCK_BOOTTIME, rounded down to 10 ms: it goes on while the machine is suspended; performance.now() stands still.
  if (uptime() + 0.01 < deadline) await step(token)
  await sleep(200)
}
process.exit()
