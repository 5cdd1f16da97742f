// A plugin for opencode that takes the place of ours in the benchmark: each request to a model
// waits for one of these in turn. What it took goes to stderr, between the lines of opencode's
// own garbage collector (BUN_JSC_logGC).

import { spawn } from "node:child_process"
import { writeSync } from "node:fs"
import lmswarm from "../../../lmswarm.mjs"

async function server(input) {
  const gate = await lmswarm.server(input, { eager: false })
  const stdio = ["ignore", "pipe", "pipe"]
  const waits = [
    () => {},
    () => new Promise((resolve) => { setTimeout(resolve, 3) }),
    () => new Promise((resolve, reject) => {
      const child = spawn("/bin/true", [], { detached: true, windowsHide: true, stdio })
      child.on("error", reject)
      child.on("close", resolve)
      child.stdout.on("data", () => {})
      child.stderr.on("data", () => {})
    }),
    (request) => gate["chat.params"](request),
  ]
  let turn = 0
  return {
    async "chat.params"(request) {
      const wait = waits[turn++ % waits.length]
      writeSync(2, "\nprobe begins\n")
      const start = performance.now()
      await wait(request)
      const took = performance.now() - start
      writeSync(2, `\nprobe ends ${took}\n`)
    },
  }
}

export default { id: "probe", server }
