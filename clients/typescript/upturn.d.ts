/**
 * The client of an Upturn server: episodes with a bound OpenAI address, rewards, and typed requests to every route.
 *
 * `upturn.js` and `upturn.d.ts` are made from this file by `npm run build`, `schema.d.ts` from the server's
 * `/openapi.json` by `npm run schema`.
 */
import type { paths } from "./schema.d.ts";
type Method = "get" | "post" | "put" | "delete";
type Json<T> = T extends {
    content: {
        "application/json": infer Body;
    };
} ? Body : undefined;
type Operation<P extends keyof paths, M extends Method> = paths[P] extends {
    [name in M]: infer Found;
} ? Found : never;
/** The paths that have a method. */
export type PathsWith<M extends Method> = {
    [P in keyof paths]: paths[P] extends {
        [name in M]: {
            responses: unknown;
        };
    } ? P : never;
}[keyof paths];
/** The body of a request. */
export type BodyOf<P extends keyof paths, M extends Method> = Operation<P, M> extends {
    requestBody?: infer Body;
} ? Json<NonNullable<Body>> : undefined;
/** The query of a request. */
export type QueryOf<P extends keyof paths, M extends Method> = Operation<P, M> extends {
    parameters: {
        query?: infer Query;
    };
} ? Query : undefined;
/** What a route answers; undefined where it answers without content. */
export type AnswerOf<P extends keyof paths, M extends Method> = Operation<P, M> extends {
    responses: infer Answers;
} ? Answers extends {
    200: infer Answer;
} ? Json<Answer> : Answers extends {
    201: infer Answer;
} ? Json<Answer> : Answers extends {
    202: infer Answer;
} ? Json<Answer> : undefined : undefined;
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
export declare class UpturnError extends Error {
    readonly status: number;
    readonly code: string;
    readonly name = "UpturnError";
    constructor(status: number, code: string, message: string, options?: ErrorOptions);
}
/** A connection to one Upturn server. */
export declare class Upturn {
    #private;
    readonly baseURL: string;
    /**
     * @param baseURL the server's address without `/v1`, such as `http://127.0.0.1:8000`
     */
    constructor(baseURL: string, options?: Options);
    /**
     * Send a request to any route of the server, and return its answer.
     *
     * A refused request (429, 503), or one that never reached the server, is sent again. A request whose answer was lost
     * is sent again only if it is repeatable: `get` and `put` are.
     */
    request<M extends Method, P extends PathsWith<M>>(method: M, path: P, sent?: Sent<P, M>): Promise<AnswerOf<P, M>>;
    /** Open an episode. The caller closes it; `withEpisode` does so by itself. */
    openEpisode(opening?: Opening): Promise<Episode>;
    /**
     * Open an episode, run an agent in it, close it, and return what the agent returns.
     *
     * If the agent throws, the episode is closed with the error's class as the reason, and the error is thrown.
     */
    withEpisode<T>(opening: Opening, agent: (episode: Episode) => Promise<T>): Promise<T>;
    /**
     * Reward an episode. It is recorded once, also if it is sent again after a lost answer.
     *
     * @param id the episode, or the id of a completion, response, message, tool call or turn in it
     */
    reward(id: string, value: number, options?: RewardOptions): Promise<NonNullable<Reward>>;
    /** Return an episode with all its turns, steps and rewards. */
    transcript(id: string): Promise<NonNullable<Transcript>>;
    /** Iterate over all episodes, the newest first, page by page. */
    episodes(filters?: QueryOf<"/v1/episodes", "get">): AsyncGenerator<{
        id: string;
        status: string;
        error_class: string | null;
        reason: string | null;
        environment: string | null;
        task: string | null;
        group: string | null;
        play_id: string | null;
        policy_version: number;
        trainable: boolean;
        success: boolean | null;
        reward: number | null;
        metadata: {
            [key: string]: unknown;
        };
        continues: string | null;
        turns: number;
        last_turn_at: number | null;
        opened_at: number;
        closed_at: number | null;
        live?: boolean;
        completion_tokens?: number;
        versions?: number[];
        untrainable?: {
            [key: string]: number;
        };
    }, void, unknown>;
    /** Return all training runs, the newest first. */
    runs(): Promise<{
        id: string;
        state: "queued" | "running" | "paused" | "done" | "failed" | "cancelled";
        trigger: string;
        config: import("./schema.d.ts").components["schemas"]["RunConfig"];
        step: number;
        trained_steps?: number | null;
        reason: string | null;
        learner: string | null;
        first_step?: number;
        follows?: import("./schema.d.ts").components["schemas"]["RunFollows"] | null;
        attempt?: number;
        first_version: number | null;
        last_version: number | null;
        gate?: ("due" | "canary" | "promoted" | "continued" | "rejected" | "void") | null;
        play_id?: string | null;
        precision?: ("bfloat16" | "float16" | "float32") | null;
        created_at: number;
        started_at: number | null;
        ended_at: number | null;
        steps: import("./schema.d.ts").components["schemas"]["RunStep"][];
    }[]>;
    /** Return all policy versions, the newest first. */
    policies(): Promise<{
        name: string;
        version: number;
        id: string;
        kind: "base" | "full" | "adapter";
        path: string;
        manifest_sha256: string | null;
        parent: number | null;
        run_id: string | null;
        step: number | null;
        horizon: number | null;
        champion: boolean;
        canary?: boolean;
        head: boolean;
        loaded: boolean;
        kept?: boolean;
        pinned?: boolean;
        swap_s: number | null;
        check_mean: number | null;
        check_max: number | null;
        created_at: number;
    }[]>;
}
/** An open episode: an agent's address and key, its environment's steps, its rewards. */
export declare class Episode {
    #private;
    readonly client: Upturn;
    readonly opened: NonNullable<Opened>;
    readonly id: string;
    /** An OpenAI `baseURL` that ties every call to this episode. */
    readonly baseURL: string;
    /** An API key that ties every call to this episode. */
    readonly apiKey: string;
    /** First messages to send: the environment's instructions and first observation. Empty for a live agent. */
    readonly messages: ChatMessage[];
    /** The environment's actions as OpenAI function tools; empty for a text-only environment. */
    readonly tools: Record<string, unknown>[];
    constructor(client: Upturn, opened: NonNullable<Opened>);
    /** Options of an OpenAI client whose calls all belong to this episode: `new OpenAI(episode.openai)`. */
    get openai(): {
        baseURL: string;
        apiKey: string;
    };
    /** Act in the environment by an answer's text. Never sent twice after a lost answer. */
    step(action: string): Promise<NonNullable<StepResult>>;
    /** Act in the environment by a tool call. Never sent twice after a lost answer. */
    call(name: string, args: Record<string, unknown>): Promise<NonNullable<StepResult>>;
    /**
     * Play the environment to its end: ask the agent for an answer, act by it, tell the agent what it observes.
     *
     * @param agent returns its answer to a conversation
     */
    steps(agent: (messages: ChatMessage[]) => Promise<string>): AsyncGenerator<Taken, void, undefined>;
    /** Reward the episode. */
    reward(value: number, options?: RewardOptions): Promise<NonNullable<Reward>>;
    /** Return the episode with all its turns, steps and rewards. */
    transcript(): Promise<NonNullable<Transcript>>;
    /** End the episode, so that it can be trained on. Closing one that has ended changes nothing. */
    close(reason?: string | null): Promise<void>;
}
export {};
