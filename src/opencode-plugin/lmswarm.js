// Before every request to an LM Studio model, opencode asks `lmswarm` to make sure that the
// model is loaded. If it cannot be, the request is not sent, and the reason is shown.
//
// Options, where the plugin is named in opencode's `plugin` list:
//   providers         provider ids that are LM Studio            (["lmstudio"], or LMSWARM_PROVIDERS),
//                     besides those that a server of lmswarm's own configuration names
//   spread            provider ids whose requests go to any of these servers: each session to one
//                     that has the model, sessions to all that suit alike   ([])
//   eager             warm `model` and `small_model` at the start (true)
//   command           the lmswarm program                         ("lmswarm")
//   silenceTimeoutMs  longest that lmswarm may say nothing         (600000)

import { execFile, execFileSync, spawn } from "node:child_process"
import { readFileSync } from "node:fs"
import { fileURLToPath } from "node:url"
import { isMainThread } from "node:worker_threads"

// Far more than `lmswarm` ever says: a line every two seconds while it waits, then its report.
const MOST_OUTPUT = 8 * 1024 * 1024
// What opencode does without asking a model; the Rust side has the same list.
const NO_MODEL = [
  "agent list", "auth", "completion", "db", "debug", "export", "import", "mcp", "models", "plug", "plugin",
  "providers", "session", "stats", "uninstall", "upgrade",
]
const TARGET = "x-lmswarm-target"
const INSTALL = "in a checkout of lmswarm, run: cargo install --path . --locked"

// A text as it may be shown: whoever wrote it should not drive the terminal.
const shown = (text) => text.slice(0, 300).replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, (it) => `\\u{${it.codePointAt(0).toString(16)}}`)

// The same as one word of a command line.
const quoted = (name) => /^[\w@%+=:,./-]+$/.test(name) ? name : `'${shown(name).replaceAll("'", "'\\''")}'`

// The words behind `opencode`. Its window runs plugins in a worker, which is not told them.
const commandLine = () => {
  if (isMainThread) return process.argv.slice(2)
  const ps = () => execFileSync("ps", ["-ww", "-o", "args=", "-p", `${process.pid}`], { encoding: "utf8" }).trim().split(/\s+/)
  for (const words of [() => readFileSync("/proc/self/cmdline", "utf8").split("\0"), ps]) {
    try { return words().slice(1) } catch {}
  }
  return []
}

// Whether a request to this address stays on this machine. Without one it is LM Studio's own.
const isLocal = (url) => {
  if (!url) return true
  const host = URL.canParse(url) ? new URL(url).hostname : ""
  return /^((.+\.)?localhost|127(\.\d+){3}|\[::1\])$/.test(host)
}

async function server({ client, directory }, options) {
  const { command = "lmswarm", eager = true, silenceTimeoutMs = 600_000, spread = [] } = options ?? {}
  const providers = options?.providers ?? (process.env.LMSWARM_PROVIDERS || "lmstudio").split(",").map((it) => it.trim())

  // Both are a courtesy: neither may hold up a request, nor stop one.
  const quietly = async (work) => { try { await work() } catch {} }
  const toast = (variant, message, duration = 5000) =>
    quietly(() => client.tui.showToast({ body: { title: "lmswarm", message, variant, duration } }))
  const log = (level, message) =>
    quietly(() => client.app.log({ body: { service: "lmswarm", level, message } }))

  // The servers that lmswarm's own configuration names. Asked for once, and only where something
  // depends on it: most requests are to a provider that is gated in any case.
  let asked
  const servers = () => asked ??= new Promise((resolve) => {
    const limits = { cwd: directory, timeout: 10_000, maxBuffer: MOST_OUTPUT, windowsHide: true }
    execFile(command, ["config", "roles", "--json", "--quiet"], limits, (error, stdout, stderr) => {
      let report
      try { report = JSON.parse(stdout) } catch {}
      if (Array.isArray(report?.servers)) return resolve(report.servers)
      // A provider that only a server names is not known to be gated then.
      const why = shown((stderr ?? "").trim().split("\n")[0] || error?.message || "it has no `servers`")
      toast("warning", `lmswarm cannot tell its servers: ${why}`)
      log("warn", `lmswarm cannot tell its servers: ${why}`)
      resolve([])
    })
  })
  const isSpread = (id) => spread.includes(id)
  const isGated = async (id) =>
    isSpread(id) || providers.includes(id) || (await servers()).some((it) => it.providers.includes(id))

  // Runs `lmswarm ensure` for what is called `name`, and resolves to its report. The child is in
  // a session of its own: it finishes its load when opencode ends, so that the next opencode
  // need not start over. In the background no person waits: others go first, and nothing is shown.
  const run = (name, words, isBackground, env) =>
    new Promise((resolve, reject) => {
      const args = ["ensure", "--json", "--color=never", "--progress-every=2s", ...words]
      if (isBackground) args.push("--background")
      const stdio = ["ignore", "pipe", "pipe"]
      const child = spawn(command, args, { cwd: directory, env, detached: true, windowsHide: true, stdio })

      let stdout = ""
      let stderr = ""
      let length = 0
      let isSlow = false
      let late
      const lastLine = () => shown(stderr.trim().split("\n").pop().replace(/^lmswarm: /, ""))
      const progress = () => { if (isSlow && lastLine()) toast("info", lastLine()) }
      const slow = setTimeout(() => { isSlow = !isBackground; progress() }, 1000)
      const silence = setTimeout(() => giveUp(`said nothing for ${silenceTimeoutMs / 1000} s (the plugin's silenceTimeoutMs)`), silenceTimeoutMs)

      const end = (settle, value) => {
        for (const timer of [slow, silence, late]) clearTimeout(timer)
        child.stdout?.destroy()
        child.stderr?.destroy()
        settle(value)
      }
      const fail = (message) => end(reject, new Error(message))
      const giveUp = (why) => {
        child.kill("SIGKILL")
        fail(`\`${command}\` ${why}, and was ended; its last words: ${lastLine() || "none"}`)
      }
      const hear = (text) => {
        silence.refresh()
        length += text.length
        if (length > MOST_OUTPUT) giveUp(`said more than ${MOST_OUTPUT / 1024 / 1024} MiB`)
      }
      const read = () => {
        try {
          const report = JSON.parse(stdout)
          if (report.schema !== 1) throw new Error(`its report has schema ${report.schema}`)
          if (!Array.isArray(report.models)) {
            return fail(`\`${command}\` gave a report without \`models\`. This is an error in lmswarm; please report it.`)
          }
          if (isSlow && report.ok) toast("success", `\`${shown(name)}\` is ready`, 3000)
          end(resolve, report)
        } catch (error) {
          const first = shown(stderr.trim().split("\n")[0]) || error.message
          fail(child.exitCode === 2 || child.exitCode === 0
            ? `\`${command}\` is too old for this plugin, or the plugin for it: ${first}\n`
              + `hint: ${INSTALL}\nhint: then: lmswarm hook opencode`
            : `\`${command}\` ended without a report (${child.signalCode ?? `exit code ${child.exitCode}`}): ${first}`)
        }
      }

      child.on("error", (error) => {
        const why = error.code === "ENOENT" ? "was not found" : `cannot be run (${error.message})`
        const isShort = ["EMFILE", "ENFILE", "EAGAIN", "ENOMEM"].includes(error.code)
        fail(`\`${command}\` ${why}, so nothing makes sure that \`${shown(name)}\` is loaded.\n`
          + (isShort
            ? "hint: this machine or opencode has too much open; close something, or start opencode anew"
            : `hint: ${INSTALL}\nhint: or remove this plugin: ${fileURLToPath(import.meta.url)}`))
      })
      // Where no process can be started there are no pipes either.
      child.stdout?.setEncoding("utf8").on("data", (text) => { stdout += text; hear(text) })
      child.stderr?.setEncoding("utf8").on("data", (text) => { stderr = (stderr + text).slice(-4096); hear(text); progress() })
      child.on("close", read)
      // What it started may hold its pipes open.
      child.on("exit", () => { late = setTimeout(read, 500) })
    })

  // Overlapping calls for one model share one child: the title and the turn, or the turn and
  // what was started at the beginning. But no person waits behind a call in the background.
  const running = new Map()
  const ensure = (key, url, token, isBackground) => {
    const idOf = (isBackground) => JSON.stringify([key, url, token, isBackground])
    const shared = running.get(idOf(false)) ?? (isBackground && running.get(idOf(true)))
    if (shared) return shared
    // The gate shows the server the very token that the request will carry, or none.
    const { LM_API_TOKEN: _, ...env } = process.env
    if (token) env.LM_API_TOKEN = token
    const words = [`--key=${key}`, "--api-token-env=LM_API_TOKEN", ...(url ? [`--base-url=${url}`] : [])]
    const id = idOf(isBackground)
    const report = run(key, words, isBackground, env).finally(() => running.delete(id))
    running.set(id, report)
    return report
  }

  // The same where any server may answer: lmswarm chooses, with its own address and token of each.
  const ensureAnywhere = (key, session, isBackground) => {
    const id = JSON.stringify([key, session, isBackground])
    const shared = running.get(id)
    if (shared) return shared
    const report = run(key, [`--key=${key}`, `--spread=${session}`], isBackground).finally(() => running.delete(id))
    running.set(id, report)
    return report
  }

  // Where the requests of a session's agent go. The header that names an entry stays in this
  // process: it is taken off before the request is sent.
  const targets = new Map()
  const targetOf = ({ sessionID, agent, model }) =>
    encodeURIComponent(JSON.stringify([sessionID, agent, model.providerID, model.id]))
  const sending = (next) => async (input, init) => {
    const headers = new Headers(init?.headers ?? input?.headers)
    const target = targets.get(headers.get(TARGET))
    headers.delete(TARGET)
    if (!target || !`${input}`.startsWith(`${target.from}/`)) return next(input, { ...init, headers })
    headers.delete("authorization")
    if (target.token) headers.set("authorization", `Bearer ${target.token}`)
    return next(target.to + `${input}`.slice(target.from.length), { ...init, headers })
  }

  // Where a model is ready, its requests go there, with the token of that server alone.
  const direct = async (request, from, { ok, models: [model] }) => {
    const server = (await servers()).find((it) => it.name === model?.server)
    if (ok && from && server) {
      targets.set(targetOf(request), { from: from.replace(/\/+$/, ""), to: model.baseURL, token: process.env[server.apiTokenEnv] })
    } else {
      targets.delete(targetOf(request))
    }
  }

  // What went wrong, in words for somebody who has no command line of ours before them.
  const explain = ({ error, models }) => {
    const failed = error ?? models.find((it) => !it?.addressable) ?? {}
    // The address that this plugin gives is the one of opencode's own configuration.
    const reason = (failed.reason ?? "no reason given").replace(" (from --base-url)", "")
    const near = failed.suggestions?.length ? `did you mean ${failed.suggestions.map(shown).join(" or ")}? ` : ""
    const hint = near + (failed.hint ?? "")
    const isOld = failed.replayed && failed.ageMs >= 1000
    const again = isOld && `found out ${Math.round(failed.ageMs / 1000)} s ago, not tried since; to try now:\n`
      + `  lmswarm ensure ${quoted(failed.key)} --fresh`
    return [reason, hint && `hint: ${hint}`, again].filter(Boolean).join("\n")
  }

  return {
    async config(config) {
      for (const id of spread) {
        const provider = ((config.provider ??= {})[id] ??= {})
        const options = (provider.options ??= {})
        options.fetch = Object.assign(sending(options.fetch ?? fetch), { isOfLmswarm: true })
      }
      // Whoever names another model, or only looks around, does not want these.
      const words = commandLine()
      const line = `${words.filter((it) => !it.startsWith("-")).join(" ")} `
      const isLooking = NO_MODEL.some((it) => line.startsWith(`${it} `))
      const isOther = words.some((it) => /^(-m|--model)(=|$)/.test(it))
      if (!eager || isLooking || isOther) return
      // Nothing here holds opencode up. What is wrong is said when the model is really asked.
      let before = Promise.resolve()
      for (const [role, pinned] of [["main", config.model], ["small", config.small_model]]) {
        if (typeof pinned !== "string") continue
        const [id, ...rest] = pinned.split("/")
        const provider = config.provider?.[id]
        // A model that any server may answer for is loaded where its session will be.
        if (!provider || isSpread(id)) continue
        const name = role === "main" ? rest.join("/").split("#")[0] : rest.join("/")
        const model = provider.models?.[name]
        const url = provider.options?.baseURL || model?.provider?.api || provider.api
        // A variable goes nowhere before opencode itself would send it.
        if (/\$\{/.test(url)) continue
        const isBackground = role === "small"
        // On another machine a project may have chosen the address, and what is in it. opencode
        // does not tell; `lmswarm` knows whose file says so, and what may go there.
        const warm = async () => {
          if (!await isGated(id)) return
          return isLocal(url)
            ? ensure(model?.id || name, url, provider.options?.apiKey, isBackground)
            : run(role, [role, `--providers=${providers}`], isBackground)
        }
        // One after the other: the main model is the one that a person will wait for.
        before = before.then(warm).catch((error) => log("warn", error.message))
      }
    },

    async "chat.params"({ sessionID, agent, model, provider, message }) {
      const id = provider.id ?? model.providerID
      if (!await isGated(id)) return
      const { baseURL, apiKey, fetch } = provider.options ?? {}
      // Another plugin may have put its own in our place: then requests go where opencode sends them.
      const isFree = isSpread(id) && fetch?.isOfLmswarm === true
      // opencode fills variables in when it sends the request, which is later.
      const addressOf = ({ api }) =>
        (baseURL || api.url)?.replace(/\$\{([^}]+)\}/g, (all, name) => process.env[name] ?? all)
      // Where opencode sends an empty name, the model that it means should be at hand.
      const ready = (model, isBackground) => isFree
        ? ensureAnywhere(model.api.id || model.id, sessionID, isBackground)
        : ensure(model.api.id || model.id, addressOf(model), apiKey ?? provider.key, isBackground)
      // opencode asks for the title first, but a person waits for the turn.
      const turn = message?.model
      const isBackground = agent === "title" && turn?.modelID !== model.id
      const main = isBackground && turn?.providerID === provider.id && provider.models?.[turn.modelID]
      if (main) await ready(main, false).catch(() => {})
      const report = await ready(model, isBackground)
      if (isFree) await direct({ sessionID, agent, model }, addressOf(model), report)
      if (!report.proceed) throw new Error(`lmswarm: ${explain(report)}`)
      if (!report.ok) {
        if (!isBackground) toast("warning", explain(report))
        log("warn", explain(report))
      }
    },

    async "chat.headers"(input, output) {
      const target = targetOf(input)
      if (targets.has(target)) output.headers[TARGET] = target
    },
  }
}

export default { id: "lmswarm", server }
