// Before every request to an LM Studio model, opencode asks `lmswarm` to make sure that the
// model is loaded. If it cannot be, the request is not sent, and the reason is shown.
//
// Options, where the plugin is named in opencode's `plugin` list:
//   providers  provider ids that are LM Studio            (["lmstudio"], or LMSWARM_PROVIDERS)
//   eager      warm `model` and `small_model` at the start (true)
//   command    the lmswarm program                         ("lmswarm")

import { spawn } from "node:child_process"
import { fileURLToPath } from "node:url"

// A model key as `lmswarm ensure` wants it.
const named = (key) => [`--key=${key}`]
// A name as it may be shown: whoever chose it should not drive the terminal.
const shown = (name) => name.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, (it) => `\\u{${it.codePointAt(0).toString(16)}}`)
// Whether an address is on this machine; none is LM Studio's own.
const isLocal = (url) => /^$|^https?:\/\/([^/?#@]+\.)?(localhost|127(\.\d+){3}|\[::1\])(:\d+)?([/?#]|$)/i.test(url ?? "")
const INSTALL = "in a checkout of lmswarm, run: cargo install --path . --locked"

async function server({ client }, options = {}) {
  const command = options?.command ?? "lmswarm"
  const providers = options?.providers ?? (process.env.LMSWARM_PROVIDERS || "lmstudio").split(",").map((it) => it.trim())

  // Both are a courtesy: neither may hold up a request, nor stop one.
  const quietly = async (work) => { try { await work() } catch {} }
  const toast = (variant, message, duration = 5000) =>
    quietly(() => client.tui.showToast({ body: { title: "lmswarm", message, variant, duration } }))
  const log = (level, message) =>
    quietly(() => client.app.log({ body: { service: "lmswarm", level, message } }))

  // Runs `lmswarm ensure` and resolves to its report. The child is in a session of its own:
  // it finishes its load when opencode ends, so that the next opencode need not start over.
  const run = (key, url, token) =>
    new Promise((resolve, reject) => {
      // The gate shows the server the very token that the request will carry, or none.
      const { LM_API_TOKEN: _, ...env } = process.env
      if (token) env.LM_API_TOKEN = token
      const args = ["ensure", ...named(key), "--json", "--color=never", "--progress-every=2s", "--api-token-env=LM_API_TOKEN"]
      if (url) args.push("--base-url", url)
      const child = spawn(command, args, { env, detached: true, windowsHide: true, stdio: ["ignore", "pipe", "pipe"] })

      let stdout = ""
      let stderr = ""
      let isSlow = false
      const progress = () => {
        const line = stderr.trim().split("\n").pop().replace(/^lmswarm: /, "")
        if (isSlow && line) toast("info", line)
      }
      const slow = setTimeout(() => { isSlow = true; progress() }, 1000)
      child.stdout.setEncoding("utf8").on("data", (text) => { stdout += text })
      child.stderr.setEncoding("utf8").on("data", (text) => { stderr += text; progress() })
      child.on("error", (error) => {
        clearTimeout(slow)
        const why = error.code === "ENOENT" ? "was not found" : `cannot be run (${error.message})`
        reject(new Error(`\`${command}\` ${why}, so nothing makes sure that \`${shown(key)}\` is loaded.\n`
          + `hint: ${INSTALL}\nhint: or remove this plugin: ${fileURLToPath(import.meta.url)}`))
      })
      child.on("close", (code, signal) => {
        clearTimeout(slow)
        try {
          const report = JSON.parse(stdout)
          if (report.schema !== 1) throw new Error(`its report has schema ${report.schema}`)
          if (isSlow && report.ok) toast("success", `\`${shown(key)}\` is ready`, 3000)
          resolve(report)
        } catch (error) {
          const last = stderr.trim().split("\n")[0] || error.message
          reject(new Error(code === 2 || code === 0
            ? `\`${command}\` is too old for this plugin, or the plugin for it: ${last}\n`
              + `hint: ${INSTALL}\nhint: then: lmswarm hook opencode`
            : `\`${command}\` ended without a report (${signal ?? `exit code ${code}`}): ${last}`))
        }
      })
    })

  // Overlapping calls for one model share one child: the title and the turn, or the turn and
  // what was started at the beginning.
  const running = new Map()
  const ensure = (key, url, token) => {
    const id = JSON.stringify([key, url, token])
    if (!running.has(id)) running.set(id, run(key, url, token).finally(() => running.delete(id)))
    return running.get(id)
  }

  const explain = ({ error, models }) => {
    const failed = error ?? models.find((it) => !it.addressable) ?? {}
    const near = failed.suggestions?.length ? `did you mean ${failed.suggestions.map(shown).join(" or ")}? ` : ""
    const hint = near + (failed.hint ?? "")
    return `lmswarm: ${failed.reason ?? "no reason given"}${hint && `\nhint: ${hint}`}`
  }

  // opencode puts variables into an address when it sends the request, which is later.
  const address = (url) => url?.replace(/\$\{([^}]+)\}/g, (all, name) => process.env[name] ?? all)

  return {
    async config(config) {
      // Whoever names another model, or only looks around, does not want these.
      const [word] = process.argv.slice(2).filter((it) => !it.startsWith("-"))
      const isLooking = ["agent", "auth", "debug", "mcp", "models", "providers", "stats", "upgrade", "uninstall"].includes(word)
      const isOther = process.argv.some((it) => /^(-m|--model)(=|$)/.test(it))
      if (options?.eager === false || isLooking || isOther) return
      for (const pinned of [config.model, config.small_model]) {
        if (typeof pinned !== "string") continue
        const [id, ...rest] = pinned.split("/")
        const provider = config.provider?.[id]
        if (!providers.includes(id) || !provider) continue
        const name = pinned === config.model ? rest.join("/").split("#")[0] : rest.join("/")
        const model = provider.models?.[name]
        const url = address(provider.options?.baseURL || model?.provider?.api || provider.api)
        // A project may have chosen the address: elsewhere the token goes with a request alone.
        if (provider.options?.apiKey && !isLocal(url)) continue
        // Not awaited. What is wrong is said when the model is really asked.
        ensure(model?.id ?? name, url, provider.options?.apiKey)
          .catch((error) => log("warn", error.message))
      }
    },

    async "chat.params"({ model, provider }) {
      if (!providers.includes(provider.id ?? model.providerID)) return
      const { baseURL, apiKey } = provider.options ?? {}
      const report = await ensure(model.api.id, address(baseURL || model.api.url), apiKey ?? provider.key)
      if (!report.proceed) throw new Error(explain(report))
      if (!report.ok) {
        toast("warning", explain(report))
        log("warn", explain(report))
      }
    },
  }
}

export default { id: "lmswarm", server }
