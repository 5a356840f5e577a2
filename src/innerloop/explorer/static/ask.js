// Questions to the server, and work that it does in the background.

/** An answer that is a sentence: the input cannot be used, or the server is gone. */
export class Refusal extends Error {}

export async function ask(path, question = {}) {
  return read(await send(path, "application/json", JSON.stringify(question)));
}

export async function upload(file) {
  return read(await send("/upload", "application/octet-stream", file));
}

async function send(path, type, body) {
  try {
    return await fetch(path, { method: "POST", headers: { "Content-Type": type }, body });
  } catch {
    throw new Refusal("The explorer does not answer. If its command has ended, start it again and open its address.");
  }
}

async function read(response) {
  const isJson = (response.headers.get("Content-Type") ?? "").includes("json");
  if (!isJson) throw new Refusal(await response.text());
  const value = await response.json();
  if (!response.ok) throw new Refusal(value.sentence);
  return value;
}

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** Work of which one runs at a time: a new one, or `stop`, ends the one before. */
export class Work {
  #name = null;
  #number = 0;

  /** Start, and hand every state to `see` until the work ends; resolves to the last state, or null if it was stopped. */
  async run(question, see = () => {}) {
    await this.stop();
    const number = this.#number;
    const { job } = await ask("/job/start", question);
    if (number !== this.#number) {
      ask("/job/stop", { job }).catch(() => {});
      return null;
    }
    this.#name = job;
    for (let wait = 40; ; wait = Math.min(250, 1.5 * wait)) {
      const state = await ask("/job/state", { job });
      if (number !== this.#number) return null;
      see(state);
      if (state.ended) {
        this.#name = null;
        if (state.sentence) throw new Refusal(state.sentence);
        return state;
      }
      await pause(wait);
    }
  }

  async stop() {
    const job = this.#name;
    this.#number += 1;
    this.#name = null;
    if (job) await ask("/job/stop", { job }).catch(() => {});
  }
}
