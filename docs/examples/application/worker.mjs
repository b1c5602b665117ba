// Does jobs with an Astra token, without any package. Renews the lease, mints the next token while the old token is still live,
// and revokes the tokens at the end. README.md lists the environment variables.

import { setTimeout as sleep } from 'node:timers/promises'

const { VAULT_ADDR, VAULT_TOKEN, ASTRA_CREDS, ASTRA_URL = 'https://api.astra.datastax.com', JOBS = '10' } = process.env
const RETRY = 5_000

class VaultError extends Error {
  constructor(path, status, errors) {
    super(`${path} returned ${status}: ${errors}`)
    this.status = status
  }
}

async function vault(path, body) {
  const answer = await fetch(`${VAULT_ADDR}/v1/${path}`, {
    method: body ? 'PUT' : 'GET',
    headers: { 'X-Vault-Token': VAULT_TOKEN, 'X-Vault-Request': 'true' },
    body: body && JSON.stringify(body),
    signal: AbortSignal.timeout(30_000),
  })
  const text = await answer.text()
  if (!answer.ok) throw new VaultError(path, answer.status, text)
  return text ? JSON.parse(text) : null
}

/** Has a token that is always valid. Read `current` for each request. */
class LiveToken {
  #leases = []
  #timer
  #work = Promise.resolve()

  static async start() {
    const live = new LiveToken()
    await live.#mint()
    return live
  }

  async #mint() {
    const answer = await vault(ASTRA_CREDS)
    const { token: value, clientId } = answer.data
    const token = { value, clientId, leaseId: answer.lease_id, ttl: answer.lease_duration }
    // The token before the last one has expired by now.
    this.#leases = [...this.#leases.slice(-1), token]
    this.current = token
    console.log(`got token ${clientId} for ${token.ttl} s`)
    this.#after((token.ttl * 2000) / 3)
  }

  #after(milliseconds) {
    // A timer of Node cannot wait for longer than 2 ** 31 - 1 milliseconds, and then fires at once.
    this.#timer = setTimeout(() => { this.#work = this.#keep() }, Math.min(milliseconds, 2 ** 31 - 1))
  }

  async #keep() {
    try {
      await this.#renew()
    } catch (error) {
      console.error(`token ${this.current.clientId} is kept, Vault failed: ${error.message}`)
      this.#after(RETRY)
    }
  }

  async #renew() {
    const { leaseId, clientId, ttl } = this.current
    let granted = 0
    try {
      granted = (await vault('sys/leases/renew', { lease_id: leaseId, increment: ttl })).lease_duration
      console.log(`renewed token ${clientId} for ${granted} s`)
    } catch (error) {
      // Vault returns 400 for a lease that does not exist any more.
      if (error.status !== 400) throw error
      console.error(`token ${clientId} has no lease any more: ${error.message}`)
    }
    // If max_ttl is near, the old token stays live for the rest of its lease, while requests with it end.
    if (granted >= ttl / 2) this.#after((granted * 2000) / 3)
    else await this.#mint()
  }

  /** Revokes all tokens that are still live. If that fails, a token lives until its lease expires. */
  async close() {
    clearTimeout(this.#timer)
    await this.#work
    clearTimeout(this.#timer)
    for (const { leaseId, clientId } of this.#leases) {
      try {
        await vault('sys/leases/revoke', { lease_id: leaseId, sync: true })
        console.log(`revoked token ${clientId}`)
      } catch (error) {
        console.error(`token ${clientId} was not revoked: ${error.message}`)
      }
    }
  }
}

/** The job: asks Astra which organization the token belongs to. */
async function job(token) {
  const headers = { Authorization: `Bearer ${token.value}` }
  const answer = await fetch(`${ASTRA_URL}/v2/currentOrg`, { headers, signal: AbortSignal.timeout(30_000) })
  if (!answer.ok) throw new Error(`Astra answered ${answer.status}`)
  await answer.text()
}

const stop = new AbortController()
for (const signal of ['SIGTERM', 'SIGINT']) process.once(signal, () => stop.abort())

const live = await LiveToken.start()
try {
  for (let number = 1; number <= Number(JOBS) && !stop.signal.aborted; number++) {
    const token = live.current
    await job(token)
    console.log(`job ${number} done with token ${token.clientId}`)
    await sleep(1000, undefined, { signal: stop.signal }).catch(() => {})
  }
} finally {
  await live.close()
}
