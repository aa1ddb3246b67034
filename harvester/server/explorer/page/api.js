// Requests to the explorer's own server. The page's address has the token that it asks for.

const token = new URLSearchParams(location.search).get("token") ?? "";

/** An answer that is no success: its text is for the reader. */
export class Refused extends Error {}

/** Ask for JSON: `get("candles", {pair: "XBTUSD"})`; a signal cancels an overtaken request. */
export async function get(name, params = {}, signal = undefined) {
  const answer = await ask(`api/${name}?${new URLSearchParams(params)}`, { signal });
  return answer.json();
}

/** Run SQL; the format is json, csv or parquet. Returns JSON, or a file: its blob, name and notes. */
export async function runSql(query, format = "json", signal = undefined) {
  const body = JSON.stringify({ query, format });
  const answer = await ask("api/sql", { method: "POST", body, signal });
  if (format === "json") return answer.json();
  const [, name] = /filename="(.*)"/.exec(answer.headers.get("Content-Disposition"));
  return { blob: await answer.blob(), name, notes: answer.headers.get("X-Notes") };
}

async function ask(address, options) {
  let answer;
  try {
    answer = await fetch(address, { ...options, headers: { "X-Token": token } });
  } catch (fault) {
    if (fault.name === "AbortError") throw fault;
    throw new Refused("the explorer does not answer: is `harvester explore` still running?");
  }
  if (!answer.ok) throw new Refused(await reason(answer));
  return answer;
}

async function reason(answer) {
  const text = await answer.text();
  try {
    return JSON.parse(text).error ?? text;
  } catch {
    return text;
  }
}

/** Runs the newest of several tasks: starting one cancels the one before. */
export class Latest {
  #controller = null;

  /** Run `task(signal)`; returns undefined where a newer one overtook it. */
  async run(task) {
    this.cancel();
    const controller = (this.#controller = new AbortController());
    try {
      const result = await task(controller.signal);
      return controller.signal.aborted ? undefined : result;
    } catch (fault) {
      if (controller.signal.aborted) return undefined;
      throw fault;
    } finally {
      if (this.#controller === controller) this.#controller = null;
    }
  }

  get isBusy() {
    return this.#controller !== null;
  }

  cancel() {
    this.#controller?.abort();
  }
}
