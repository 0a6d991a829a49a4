/**
 * The client of an Upturn server: episodes with a bound OpenAI address, rewards, and typed requests to every route.
 *
 * `upturn.js` and `upturn.d.ts` are made from this file by `npm run build`, `schema.d.ts` from the server's
 * `/openapi.json` by `npm run schema`.
 */

import type { paths } from "./schema.d.ts";

type Method = "get" | "post" | "put" | "delete";
type Json<T> = T extends { content: { "application/json": infer Body } } ? Body : undefined;
type Operation<P extends keyof paths, M extends Method> = paths[P] extends { [name in M]: infer Found } ? Found : never;

/** The paths that have a method. */
export type PathsWith<M extends Method> = {
  [P in keyof paths]: paths[P] extends { [name in M]: { responses: unknown } } ? P : never;
}[keyof paths];

/** The body of a request. */
export type BodyOf<P extends keyof paths, M extends Method> =
  Operation<P, M> extends { requestBody?: infer Body } ? Json<NonNullable<Body>> : undefined;

/** The query of a request. */
export type QueryOf<P extends keyof paths, M extends Method> =
  Operation<P, M> extends { parameters: { query?: infer Query } } ? Query : undefined;

/** What a route answers; undefined where it answers without content. */
export type AnswerOf<P extends keyof paths, M extends Method> =
  Operation<P, M> extends { responses: infer Answers }
    ? Answers extends { 200: infer Answer }
      ? Json<Answer>
      : Answers extends { 201: infer Answer }
        ? Json<Answer>
        : Answers extends { 202: infer Answer }
          ? Json<Answer>
          : undefined
    : undefined;

/** How an episode is opened; without an environment, it is a live agent's. */
export type Opening = BodyOf<"/v1/episodes", "post">;
export type Opened = AnswerOf<"/v1/episodes", "post">;
export type Transcript = AnswerOf<"/v1/episodes/{episode_id}", "get">;
export type StepResult = AnswerOf<"/v1/episodes/{episode_id}/steps", "post">;
export type Reward = AnswerOf<"/v1/rewards", "post">;
export type Run = AnswerOf<"/v1/runs/{run_id}", "get">;
export type Policy = AnswerOf<"/v1/policies/{version}", "get">;

/** Who rewards, and what. */
export interface RewardOptions {
  /** Who gives the reward; default: `user`. */
  source?: string;
  /** Index of the turn that earned it; default: the whole episode. */
  turn?: number;
  /** Idempotency key: calls with the same key record one reward. Default: a new one for this call. */
  key?: string;
}

export interface Options {
  /** API key, if the server requires one. */
  key?: string;
  /** Total wait of one request for a server that is overloaded or away, in milliseconds; default: 60,000. */
  retryMs?: number;
  /** Longest wait for one answer, in milliseconds; default: 60,000. */
  timeoutMs?: number;
  /** Sends requests; default: the global `fetch`. */
  fetch?: typeof fetch;
}

/** Parameters of a request. */
export interface Sent<P extends keyof paths, M extends Method> {
  /** Values of the path's names in braces. */
  path?: Record<string, string | number>;
  query?: QueryOf<P, M>;
  body?: BodyOf<P, M>;
  /** Whether repeating the request changes nothing, so that it is sent again after a lost answer. */
  repeatable?: boolean;
}

/** A message of a conversation, as agents send it. */
export interface ChatMessage {
  role: string;
  content: string;
}

/** A step that `Episode.steps` has taken. */
export interface Taken extends NonNullable<StepResult> {
  /** The agent's answer, from which the environment took the action. */
  action: string;
}

/** The server refused a request, or could not be reached within the retry budget (then `status` is 0). */
export class UpturnError extends Error {
  override readonly name = "UpturnError";

  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}

const REFUSED = new Set([429, 503]);
/** Codes of Node's errors for a request that never reached the server. Browsers do not tell. */
const NEVER_SENT = new Set(["ECONNREFUSED", "ENOTFOUND", "EAI_AGAIN", "EHOSTUNREACH", "UND_ERR_CONNECT_TIMEOUT"]);
const FIRST_PAUSE_MS = 250;
const MAX_PAUSE_MS = 10_000;

/** A connection to one Upturn server. */
export class Upturn {
  readonly baseURL: string;
  readonly #options: Options;

  /**
   * @param baseURL the server's address without `/v1`, such as `http://127.0.0.1:8000`
   */
  constructor(baseURL: string, options: Options = {}) {
    this.baseURL = baseURL.replace(/\/+$/, "");
    this.#options = options;
  }

  /**
   * Send a request to any route of the server, and return its answer.
   *
   * A refused request (429, 503), or one that never reached the server, is sent again. A request whose answer was lost
   * is sent again only if it is repeatable: `get` and `put` are.
   */
  async request<M extends Method, P extends PathsWith<M>>(
    method: M,
    path: P,
    sent: Sent<P, M> = {},
  ): Promise<AnswerOf<P, M>> {
    const url = this.#url(path, sent.path ?? {}, (sent.query ?? {}) as Record<string, unknown>);
    const repeatable = sent.repeatable ?? (method === "get" || method === "put");
    const headers: Record<string, string> = {};
    if (this.#options.key !== undefined) headers["authorization"] = `Bearer ${this.#options.key}`;
    if (sent.body !== undefined) headers["content-type"] = "application/json";
    const body = sent.body === undefined ? null : JSON.stringify(sent.body);
    const budget = this.#options.retryMs ?? 60_000;
    let waited = 0;
    for (let pause = FIRST_PAUSE_MS; ; pause = Math.min(2 * pause, MAX_PAUSE_MS)) {
      let failure: UpturnError | undefined;
      let again = false;
      let wait = pause;
      let answer: Response | undefined;
      let text = "";
      try {
        const send = this.#options.fetch ?? fetch;
        const signal = AbortSignal.timeout(this.#options.timeoutMs ?? 60_000);
        answer = await send(url, { method: method.toUpperCase(), headers, body, signal });
        text = await answer.text();
      } catch (error) {
        answer = undefined;
        failure = new UpturnError(0, "connection_error", `${method} ${path}: ${reason(error)}`, { cause: error });
        again = repeatable || neverSent(error);
      }
      if (answer !== undefined) {
        if (answer.ok) return (text === "" ? undefined : JSON.parse(text)) as AnswerOf<P, M>;
        failure = refusal(answer.status, text);
        again = REFUSED.has(answer.status);
        const named = Number(answer.headers.get("retry-after") ?? NaN);
        if (named >= 0) wait = 1000 * named;
      }
      if (!again || waited + wait > budget) throw failure;
      await new Promise((resolve) => setTimeout(resolve, wait));
      waited += Math.max(wait, 10);
    }
  }

  /** Open an episode. The caller closes it; `withEpisode` does so by itself. */
  async openEpisode(opening: Opening = {} as Opening): Promise<Episode> {
    const opened = await this.request("post", "/v1/episodes", { body: opening });
    return new Episode(this, opened as NonNullable<Opened>);
  }

  /**
   * Open an episode, run an agent in it, close it, and return what the agent returns.
   *
   * If the agent throws, the episode is closed with the error's class as the reason, and the error is thrown.
   */
  async withEpisode<T>(opening: Opening, agent: (episode: Episode) => Promise<T>): Promise<T> {
    const episode = await this.openEpisode(opening);
    let result: T;
    try {
      result = await agent(episode);
    } catch (error) {
      const kind = error instanceof Error ? error.constructor.name : typeof error;
      await episode.close(`the agent failed: ${kind}`).catch(() => undefined);
      throw error;
    }
    await episode.close();
    return result;
  }

  /**
   * Reward an episode. It is recorded once, also if it is sent again after a lost answer.
   *
   * @param id the episode, or the id of a completion, response, message, tool call or turn in it
   */
  async reward(id: string, value: number, options: RewardOptions = {}): Promise<NonNullable<Reward>> {
    const body = {
      id,
      value,
      source: options.source ?? "user",
      turn: options.turn ?? null,
      key: options.key ?? `client-${crypto.randomUUID()}`,
    };
    return (await this.request("post", "/v1/rewards", { body, repeatable: true })) as NonNullable<Reward>;
  }

  /** Return an episode with all its turns, steps and rewards. */
  async transcript(id: string): Promise<NonNullable<Transcript>> {
    const sent = { path: { episode_id: id } };
    return (await this.request("get", "/v1/episodes/{episode_id}", sent)) as NonNullable<Transcript>;
  }

  /** Iterate over all episodes, the newest first, page by page. */
  async *episodes(filters: QueryOf<"/v1/episodes", "get"> = {}) {
    let after: string | null | undefined;
    do {
      const page: AnswerOf<"/v1/episodes", "get"> = await this.request("get", "/v1/episodes", {
        query: { limit: 100, ...filters, after },
      });
      yield* page.data;
      after = page.next;
    } while (after != null);
  }

  /** Return all training runs, the newest first. */
  async runs() {
    return (await this.request("get", "/v1/runs")).data;
  }

  /** Return all policy versions, the newest first. */
  async policies() {
    return (await this.request("get", "/v1/policies")).data;
  }

  #url(path: string, names: Record<string, string | number>, query: Record<string, unknown>): string {
    const filled = path.replace(/\{(\w+)\}/g, (_, name: string) => {
      const value = names[name];
      if (value === undefined) throw new TypeError(`${path} needs a value for ${name}`);
      return encodeURIComponent(value);
    });
    const url = new URL(this.baseURL + filled);
    for (const [name, value] of Object.entries(query)) {
      for (const one of Array.isArray(value) ? value : [value]) {
        if (one !== undefined && one !== null) url.searchParams.append(name, String(one));
      }
    }
    return url.href;
  }
}

/** An open episode: an agent's address and key, its environment's steps, its rewards. */
export class Episode {
  readonly id: string;
  /** An OpenAI `baseURL` that ties every call to this episode. */
  readonly baseURL: string;
  /** An API key that ties every call to this episode. */
  readonly apiKey: string;
  /** First messages to send: the environment's instructions and first observation. Empty for a live agent. */
  readonly messages: ChatMessage[];
  /** The environment's actions as OpenAI function tools; empty for a text-only environment. */
  readonly tools: Record<string, unknown>[];

  constructor(
    readonly client: Upturn,
    readonly opened: NonNullable<Opened>,
  ) {
    this.id = opened.id;
    this.baseURL = `${client.baseURL}/episodes/${opened.id}/v1`;
    this.apiKey = opened.key;
    this.messages = opened.messages;
    this.tools = opened.tools;
  }

  /** Options of an OpenAI client whose calls all belong to this episode: `new OpenAI(episode.openai)`. */
  get openai(): { baseURL: string; apiKey: string } {
    return { baseURL: this.baseURL, apiKey: this.apiKey };
  }

  /** Act in the environment by an answer's text. Never sent twice after a lost answer. */
  async step(action: string): Promise<NonNullable<StepResult>> {
    return this.#step({ action });
  }

  /** Act in the environment by a tool call. Never sent twice after a lost answer. */
  async call(name: string, args: Record<string, unknown>): Promise<NonNullable<StepResult>> {
    return this.#step({ tool_call: { name, arguments: args } });
  }

  /**
   * Play the environment to its end: ask the agent for an answer, act by it, tell the agent what it observes.
   *
   * @param agent returns its answer to a conversation
   */
  async *steps(agent: (messages: ChatMessage[]) => Promise<string>): AsyncGenerator<Taken, void, undefined> {
    const messages = [...this.messages];
    for (;;) {
      const action = await agent([...messages]);
      const result = await this.step(action);
      yield { ...result, action };
      if (result.terminated || result.truncated) return;
      messages.push({ role: "assistant", content: action }, { role: "user", content: result.observation });
    }
  }

  /** Reward the episode. */
  async reward(value: number, options: RewardOptions = {}): Promise<NonNullable<Reward>> {
    return this.client.reward(this.id, value, options);
  }

  /** Return the episode with all its turns, steps and rewards. */
  async transcript(): Promise<NonNullable<Transcript>> {
    return this.client.transcript(this.id);
  }

  /** End the episode, so that it can be trained on. Closing one that has ended changes nothing. */
  async close(reason: string | null = null): Promise<void> {
    const sent = { path: { episode_id: this.id }, body: { reason }, repeatable: true };
    try {
      await this.client.request("post", "/v1/episodes/{episode_id}/close", sent);
    } catch (error) {
      if (!(error instanceof UpturnError && error.code === "episode_ended")) throw error;
    }
  }

  async #step(body: BodyOf<"/v1/episodes/{episode_id}/steps", "post">): Promise<NonNullable<StepResult>> {
    const sent = { path: { episode_id: this.id }, body };
    return (await this.client.request("post", "/v1/episodes/{episode_id}/steps", sent)) as NonNullable<StepResult>;
  }
}

/** Read OpenAI's error body; the message of any other answer, such as a proxy's page, is its text. */
function refusal(status: number, text: string): UpturnError {
  try {
    const { error } = JSON.parse(text);
    return new UpturnError(status, String(error.code ?? error.type ?? "error"), String(error.message));
  } catch {
    return new UpturnError(status, "error", text.slice(0, 500));
  }
}

function reason(error: unknown): string {
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
  return cause instanceof Error ? `${cause.name}: ${cause.message}` : String(cause);
}

function neverSent(error: unknown): boolean {
  const cause = error instanceof Error ? (error.cause as { code?: unknown } | undefined) : undefined;
  return typeof cause?.code === "string" && NEVER_SENT.has(cause.code);
}
