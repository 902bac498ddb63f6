// The API, and what is told of its refusals.

import { $, FINAL, memory, sentence, sleep, tell, whenShown } from './dom.js';

export const MOST_SENDS = 10; // of one request, while no answer comes: about a minute, longer than a restart
const LONGEST_PAUSE = 8; // seconds between two of them
const SILENCE_SECONDS = 45; // of an event stream, which says something every 15 s; then its connection is dead
const HIDDEN_POLL_SECONDS = 5;

let apiKey = memory.get('key', '');
let served = null; // what /v1/server said

export const key = () => apiKey;

export function setKey(text) {
  apiKey = text;
}

export const serverInfo = () => served;

export const pauseBefore = (attempt) => Math.min(2 ** attempt, LONGEST_PAUSE);

export class NoAnswer extends Error {
  constructor() {
    super('The server does not answer.');
  }
}

class Refusal extends Error {
  constructor(status, detail, retryAfter) {
    const wait = retryAfter ? ` Try again in about ${retryAfter} s.` : '';
    super(sentence(detail?.message ?? `the server answered ${status}`) + wait);
    this.status = status;
    this.param = detail?.param ?? null;
    this.retryAfter = retryAfter;
  }
}

// A seed may have more digits than a JavaScript number holds: it becomes text before it is parsed. Inside a string of
// JSON a quotation mark has a backslash before it, so that this finds keys alone.
const parseJson = (text) => JSON.parse(text.replace(/"seed":\s*(-?\d+)/g, '"seed":"$1"'));

async function refusal(response) {
  let detail = null;
  try {
    detail = (await response.json()).error;
  } catch { /* not from the API: a proxy's page, say */ }
  return new Refusal(response.status, detail, Number(response.headers.get('Retry-After')) || null);
}

export async function ask(path, options = {}) {
  const headers = { ...options.headers };
  if (apiKey) headers.Authorization = `Bearer ${apiKey}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    throw error.name === 'AbortError' ? error : new NoAnswer();
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

export const askJson = async (path, options) => parseJson(await (await ask(path, options)).text());

export const videoPath = (id, tail = '') => `v1/videos/${encodeURIComponent(id)}${tail}`;

async function* lines(stream, onBytes) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    onBytes();
    const parts = (rest + value).split('\n');
    rest = parts.pop();
    for (const part of parts) yield part.replace(/\r$/, '');
  }
}

/** The video objects of a job's event stream. EventSource cannot send a key, so the stream is read by hand. */
async function* eventsOf(id, signal) {
  const over = new AbortController();
  const either = AbortSignal.any([signal, over.signal]);
  let timer = 0;
  const heard = () => {
    clearTimeout(timer);
    timer = setTimeout(() => over.abort(), 1000 * SILENCE_SECONDS);
  };
  heard();
  try {
    const response = await ask(videoPath(id, '/events'), { signal: either, cache: 'no-store' });
    let data = [];
    for await (const line of lines(response.body, heard)) {
      if (line.startsWith('data:')) data.push(line.slice(5).replace(/^ /, ''));
      else if (line === '' && data.length) {
        yield parseJson(data.join('\n'));
        data = [];
      }
    }
  } finally {
    clearTimeout(timer);
    over.abort(); // also where nobody wants the rest: the connection is let go
  }
}

export const look = (id, signal) => askJson(videoPath(id), { signal, cache: 'no-store' });

/**
 * Follow a job to its end through broken streams and restarts of the server.
 * A hidden tab polls: a browser opens few connections to one server, and each stream holds one.
 */
export async function follow(id, { signal, onJob, onLost }) {
  for (let failures = 0; !signal.aborted; ) {
    try {
      const seen = await look(id, signal);
      failures = 0;
      onJob(seen);
      if (FINAL.has(seen.status)) return;
      if (document.hidden) {
        await Promise.race([sleep(HIDDEN_POLL_SECONDS, signal), whenShown()]);
      } else if (await streamed(id, signal, onJob)) {
        return;
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Refusal && error.status < 500 && error.status !== 429) throw error;
      failures += 1;
    }
    if (!document.hidden) onLost(failures);
    await sleep(pauseBefore(failures - 1), signal).catch(() => {});
  }
}

/** Whether a stream brought the job to its end; it is left where the tab is hidden. */
async function streamed(id, signal, onJob) {
  const leave = new AbortController();
  const onHidden = () => document.hidden && leave.abort();
  document.addEventListener('visibilitychange', onHidden, { signal: leave.signal });
  try {
    for await (const job of eventsOf(id, AbortSignal.any([signal, leave.signal]))) {
      onJob(job);
      if (FINAL.has(job.status)) return true;
    }
  } catch (error) {
    if (!leave.signal.aborted) throw error;
  } finally {
    leave.abort();
  }
  return false;
}

/** Ask until the server says what it is. */
export async function whatServer() {
  for (let attempt = 0; ; attempt += 1) {
    try {
      served = await askJson('v1/server', { cache: 'no-store' });
      $('offline').hidden = true;
      return served;
    } catch {
      $('offline').hidden = false;
      await sleep(pauseBefore(attempt));
    }
  }
}

// Errors

export function report(error) {
  if (error.name === 'AbortError') return;
  tell(messageOf(error));
  if (error.status === 401) askForKey();
}

export function messageOf(error) {
  if (error.status === 401) return apiKey ? 'This API key is not valid.' : 'This server asks for an API key.';
  return error instanceof Refusal || error instanceof NoAnswer ? error.message : `The page failed: ${error.message}`;
}

export function askForKey() {
  if (!served.needs_key) return;
  $('key').focus();
}
