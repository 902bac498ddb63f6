// What every other file uses: small things, the names of a job, what this tab remembers, messages.

export const $ = (id) => document.getElementById(id);
export const form = $('job-form');
export const calm = window.matchMedia('(prefers-reduced-motion: reduce)');

// Small things

export const sleep = (seconds, signal) =>
  new Promise((resolve, reject) => {
    const abort = () => { clearTimeout(timer); reject(signal.reason); };
    const timer = setTimeout(() => { signal?.removeEventListener('abort', abort); resolve(); }, 1000 * seconds);
    if (signal?.aborted) abort();
    signal?.addEventListener('abort', abort, { once: true });
  });

export const whenShown = () =>
  new Promise((resolve) => document.addEventListener('visibilitychange', resolve, { once: true }));

export const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

export const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?…]$/.test(text) ? '' : '.');

export const element = (name, className, text) => {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
};

export const clone = (template) => $(template).content.firstElementChild.cloneNode(true);

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text; // what has not changed is not announced again
}

export function randomHex(bytes) {
  // crypto.randomUUID is missing where a page comes over plain HTTP from another machine
  const numbers = crypto.getRandomValues(new Uint8Array(bytes));
  return Array.from(numbers, (number) => number.toString(16).padStart(2, '0')).join('');
}

export const randomSeed = () => String(crypto.getRandomValues(new Uint32Array(1))[0]);

export function duration(seconds) {
  if (seconds < 9.995) return `${seconds.toFixed(2)} s`;
  if (seconds < 99.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  return `${Math.floor(whole / 60)} min ${whole % 60} s`;
}

// A job, wherever it is shown

export const FINAL = new Set(['completed', 'failed', 'cancelled']);
export const STATUS = {
  queued: 'Queued', in_progress: 'Running', completed: 'Done', failed: 'Failed', cancelled: 'Cancelled',
};

export function cutName(cut, steps) {
  return cut > steps ? 'never cut' : `with c = ${cut}`;
}

export function cutTitle(job) {
  return job.cut_step > job.num_inference_steps ? 'Never cut' : `Cut at c = ${job.cut_step}`;
}

export function showBadge(badge, job) {
  setText(badge, job.cancel_requested && !FINAL.has(job.status) ? 'Cancelling' : STATUS[job.status] ?? job.status);
  badge.dataset.status = job.status;
}

// What this tab remembers: gone when it is closed

export const memory = {
  get(name, otherwise) {
    try {
      return JSON.parse(sessionStorage.getItem(`vcut.${name}`)) ?? otherwise;
    } catch {
      return otherwise;
    }
  },
  set(name, value) {
    try {
      sessionStorage.setItem(`vcut.${name}`, JSON.stringify(value));
    } catch { /* storage is full or forbidden: the page works without it, a reload begins anew */ }
  },
};

// Messages

export function tell(message) {
  $('alert-text').textContent = message;
  $('alert').dataset.shown = '';
  $('alert-close').hidden = false;
}

export function untell() {
  $('alert-text').textContent = '';
  delete $('alert').dataset.shown;
  $('alert-close').hidden = true;
}

export const announce = (text) => setText($('announcer'), text);
