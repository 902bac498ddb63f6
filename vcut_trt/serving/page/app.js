// The page of `vcut serve`: submits jobs, watches them, shows their videos.
// Whatever the server says becomes text or a property, never markup.

const FINAL = new Set(['completed', 'failed', 'cancelled']);
const STATUS = {
  queued: 'Queued', in_progress: 'Running', completed: 'Done', failed: 'Failed', cancelled: 'Cancelled',
};
const STAGE = {
  starting: 'Preparing',
  condition: 'Reading the picture',
  'semantic binding': 'Semantic binding',
  'quality improvement': 'Quality improvement',
  decode: 'Decoding the frames',
  encode: 'Writing the MP4',
};
const KIND = { 'semantic binding': 'binding', 'quality improvement': 'quality', decode: 'decode', encode: 'encode' };
const PICTURES = ['image/jpeg', 'image/png', 'image/webp'];
const LARGEST_SEED = 2n ** 63n - 1n;
const MOST_SENDS = 10; // of one request, while no answer comes: about a minute, longer than a restart
const LONGEST_PAUSE = 8; // seconds between two of them
const SILENCE_SECONDS = 45; // of an event stream, which says something every 15 s; then its connection is dead
const HIDDEN_POLL_SECONDS = 5;
const LIST_SECONDS = { busy: 4, idle: 30 };
const PAGE_JOBS = 20;
const MOST_CELLS = 50; // of a step bar; more steps are not drawn one by one

const $ = (id) => document.getElementById(id);
const form = $('job-form');
const calm = window.matchMedia('(prefers-reduced-motion: reduce)');

let server = null; // what /v1/server said

// Small things

const sleep = (seconds, signal) =>
  new Promise((resolve, reject) => {
    const abort = () => { clearTimeout(timer); reject(signal.reason); };
    const timer = setTimeout(() => { signal?.removeEventListener('abort', abort); resolve(); }, 1000 * seconds);
    if (signal?.aborted) abort();
    signal?.addEventListener('abort', abort, { once: true });
  });

const whenShown = () =>
  new Promise((resolve) => document.addEventListener('visibilitychange', resolve, { once: true }));

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

const pauseBefore = (attempt) => Math.min(2 ** attempt, LONGEST_PAUSE);

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?…]$/.test(text) ? '' : '.');

const element = (name, className, text) => {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
};

const clone = (template) => $(template).content.firstElementChild.cloneNode(true);

function setText(node, text) {
  if (node.textContent !== text) node.textContent = text; // what has not changed is not announced again
}

function randomHex(bytes) {
  // crypto.randomUUID is missing where a page comes over plain HTTP from another machine
  const numbers = crypto.getRandomValues(new Uint8Array(bytes));
  return Array.from(numbers, (number) => number.toString(16).padStart(2, '0')).join('');
}

const randomSeed = () => String(crypto.getRandomValues(new Uint32Array(1))[0]);

function duration(seconds) {
  if (seconds < 9.995) return `${seconds.toFixed(2)} s`;
  if (seconds < 99.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  return `${Math.floor(whole / 60)} min ${whole % 60} s`;
}

function cutName(cut, steps) {
  return cut > steps ? 'never cut' : `with c = ${cut}`;
}

function cutTitle(job) {
  return job.cut_step > job.num_inference_steps ? 'Never cut' : `Cut at c = ${job.cut_step}`;
}

// What this tab remembers: gone when it is closed

const memory = {
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

let apiKey = memory.get('key', '');

// Messages

function tell(message) {
  $('alert-text').textContent = message;
  $('alert').dataset.shown = '';
  $('alert-close').hidden = false;
}

function untell() {
  $('alert-text').textContent = '';
  delete $('alert').dataset.shown;
  $('alert-close').hidden = true;
}

const announce = (text) => setText($('announcer'), text);

function report(error) {
  if (error.name === 'AbortError') return;
  tell(messageOf(error));
  if (error.status === 401) askForKey();
}

function messageOf(error) {
  if (error.status === 401) return apiKey ? 'This API key is not valid.' : 'This server asks for an API key.';
  return error instanceof Refusal || error instanceof NoAnswer ? error.message : `The page failed: ${error.message}`;
}

// The API

class NoAnswer extends Error {
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

// A seed may have more digits than a JavaScript number holds: its text is kept, where the browser tells it.
const parseJson = (text) =>
  JSON.parse(text, (name, value, context) => (name === 'seed' ? context?.source ?? String(value) : value));

async function refusal(response) {
  let detail = null;
  try {
    detail = (await response.json()).error;
  } catch { /* not from the API: a proxy's page, say */ }
  return new Refusal(response.status, detail, Number(response.headers.get('Retry-After')) || null);
}

async function ask(path, options = {}) {
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

const askJson = async (path, options) => parseJson(await (await ask(path, options)).text());

const videoPath = (id, tail = '') => `v1/videos/${encodeURIComponent(id)}${tail}`;

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

const look = (id, signal) => askJson(videoPath(id), { signal, cache: 'no-store' });

/**
 * Follow a job to its end through broken streams and restarts of the server.
 * A hidden tab polls: a browser opens few connections to one server, and each stream holds one.
 */
async function follow(id, { signal, onJob, onLost }) {
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

// The picture

const picture = { file: null, url: '' };

function dropPicture() {
  URL.revokeObjectURL(picture.url);
  Object.assign(picture, { file: null, url: '' });
  $('image').value = '';
  $('preview').hidden = true;
  $('preview').removeAttribute('src');
  setText($('image-label'), 'Choose a picture');
}

async function takePicture(file) {
  untell();
  const url = URL.createObjectURL(file);
  try {
    if (file.type && !PICTURES.includes(file.type)) throw new Error('not a kind that the server reads');
    const trial = new Image();
    trial.src = url;
    await trial.decode();
  } catch {
    URL.revokeObjectURL(url);
    dropPicture();
    tell(`${file.name} is not a picture that can be read. Choose a JPEG, PNG or WebP.`);
    return;
  }
  URL.revokeObjectURL(picture.url);
  Object.assign(picture, { file, url });
  $('preview').src = url;
  $('preview').hidden = false;
  setText($('image-label'), file.name || 'Pasted picture');
}

/** Files that were dropped or pasted go through the input: it is what the form checks. */
function takeFiles(files) {
  const [file] = files;
  if (!file) return;
  const carrier = new DataTransfer();
  carrier.items.add(file);
  $('image').files = carrier.files;
  takePicture(file);
}

function listenForPictures() {
  const drop = $('drop');
  const hasFiles = (event) => event.dataTransfer?.types.includes('Files');
  $('image').addEventListener('change', () => {
    const [file] = $('image').files;
    if (file) takePicture(file);
    else dropPicture();
  });
  document.addEventListener('dragover', (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault(); // else the browser would leave the page and open the file
    drop.classList.add('over');
  });
  document.addEventListener('dragleave', (event) => {
    if (!event.relatedTarget) drop.classList.remove('over');
  });
  document.addEventListener('drop', (event) => {
    drop.classList.remove('over');
    if (!hasFiles(event)) return;
    event.preventDefault();
    takeFiles(event.dataTransfer.files);
  });
  document.addEventListener('paste', (event) => {
    if (!event.clipboardData?.files.length) return;
    event.preventDefault();
    takeFiles(event.clipboardData.files);
  });
}

// Steps and cut steps

const plan = { steps: 25, cut: 17, other: 26 };

// What was chosen last, and of how many steps. Other steps are cut at the same share, as the server does it: while a
// number is being typed, its first digit alone changes nothing for good. Never stays never.
const chosen = { cut: { step: 17, of: 25 }, other: { step: 26, of: 25 } };

const scaled = ({ step, of }, steps) => Math.round((steps * (step - 1)) / of) + 1;

function setSteps(steps) {
  plan.steps = steps;
  plan.cut = scaled(chosen.cut, steps);
  plan.other = scaled(chosen.other, steps);
  for (const id of ['cut_step', 'cut-slider', 'compare-step']) $(id).max = steps + 1;
  $('cut_step').value = plan.cut;
  $('compare-step').value = plan.other;
  showPlan();
}

function setCut(which, step) {
  plan[which] = step;
  chosen[which] = { step, of: plan.steps };
  showPlan();
}

const range = (first, last) => (first === last ? `Step ${first}` : `Steps ${first} – ${last}`);

function showPlan() {
  const { steps, cut } = plan;
  const slider = $('cut-slider');
  slider.value = cut;
  slider.style.setProperty('--share', (cut - 1) / steps);
  slider.setAttribute('aria-valuetext', cut > steps ? `${cut}, never cut` : `${cut} of ${steps} steps`);
  $('cut-never').hidden = cut <= steps;
  setText($('cut-binding'), cut > 1 ? `${range(1, cut - 1)}: semantic binding` : 'No semantic binding');
  setText($('cut-quality'), cut <= steps ? `${range(cut, steps)}: quality improvement` : 'No quality improvement');
  const passes = steps + cut - 1;
  const saved = Math.round(100 * (1 - passes / (2 * steps)));
  setText(
    $('cut-passes'),
    `${passes} UNet passes${saved > 0 ? `, ${saved} % fewer than ${2 * steps} without a cut` : ', none saved'}.`,
  );
  setText($('compare-hint'), plan.other > steps ? 'never cut' : '');
  checkCompare();
}

function checkCompare() {
  const isSame = $('compare').checked && plan.other === plan.cut;
  $('compare-step').setCustomValidity(isSame ? 'Choose another cut step than that of the first video.' : '');
  $('compare-step').disabled = !$('compare').checked;
  setText($('send'), $('compare').checked ? 'Make both videos' : 'Make the video');
}

function checkSeed() {
  const text = $('seed').value;
  const isTooLarge = /^\d+$/.test(text) && BigInt(text) > LARGEST_SEED;
  $('seed').setCustomValidity(isTooLarge ? `At most ${LARGEST_SEED}.` : '');
}

function listenForSettings() {
  const whole = (input, use) => () => {
    input.setCustomValidity(''); // ours is about two fields, and is set anew
    if (input.validity.valid) use(Number(input.value));
  };
  $('num_inference_steps').addEventListener('input', whole($('num_inference_steps'), setSteps));
  $('cut_step').addEventListener('input', whole($('cut_step'), (step) => setCut('cut', step)));
  $('cut-slider').addEventListener('input', () => {
    $('cut_step').value = $('cut-slider').value;
    setCut('cut', Number($('cut-slider').value));
  });
  $('compare-step').addEventListener('input', whole($('compare-step'), (step) => setCut('other', step)));
  $('compare').addEventListener('change', checkCompare);
  $('seed').addEventListener('input', checkSeed);
  $('fit').addEventListener('change', () => $('preview').classList.toggle('stretch', $('fit').value === 'stretch'));
  form.addEventListener('input', (event) => event.target.removeAttribute('aria-invalid'));
  // a field at fault must be seen, else the browser cannot point at it
  $('more').addEventListener('invalid', () => { $('more').open = true; }, { capture: true });
}

function reuse(job) {
  $('num_inference_steps').value = job.num_inference_steps;
  setSteps(job.num_inference_steps);
  $('cut_step').value = job.cut_step;
  setCut('cut', job.cut_step);
  const same = ['seed', 'fps', 'motion_bucket_id', 'noise_aug_strength', 'min_guidance_scale', 'max_guidance_scale'];
  for (const name of same) $(name).value = job[name];
  checkSeed();
  $('job-heading').scrollIntoView({ behavior: calm.matches ? 'auto' : 'smooth' });
  $('cut_step').focus({ preventScroll: true });
  announce('The settings were taken over.');
}

// Submitting

function jobForm(cut, seed) {
  const data = new FormData(form);
  data.set('image', picture.file, picture.file.name || 'picture');
  data.set('cut_step', String(cut));
  if (seed) data.set('seed', seed);
  else data.delete('seed');
  return data;
}

/** Send one job until there is an answer. The same key each time: however often it arrives, it is one job. */
async function send(body, signal) {
  const headers = { 'Idempotency-Key': randomHex(16) };
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await askJson('v1/videos', { method: 'POST', body, headers, signal });
    } catch (error) {
      const isRestarting = error.status === 503;
      if (!(error instanceof NoAnswer || isRestarting) || attempt === MOST_SENDS) throw error;
      $('send-stop').hidden = false;
      const reason = isRestarting ? 'The server is restarting.' : error.message;
      setText($('send-text'), `${reason} Sending again (${attempt} of ${MOST_SENDS - 1}) …`);
      await sleep(Math.max(pauseBefore(attempt - 1), error.retryAfter ?? 0), signal);
    }
  }
}

let sending = null;

async function submit() {
  if (sending) return;
  untell();
  sending = new AbortController();
  $('send').setAttribute('aria-disabled', 'true');
  setText($('send-text'), 'Sending the picture …');
  const isPair = $('compare').checked;
  const seed = $('seed').value || (isPair ? randomSeed() : '');
  const bodies = (isPair ? [plan.cut, plan.other] : [plan.cut]).map((cut) => jobForm(cut, seed));
  const sent = { file: picture.file, fit: $('fit').value }; // the form may change while it is sent
  const made = [];
  try {
    for (const body of bodies) made.push(await send(body, sending.signal));
  } catch (error) {
    refused(error);
  } finally {
    sending = null;
    $('send').removeAttribute('aria-disabled');
    $('send-stop').hidden = true;
    setText($('send-text'), '');
  }
  if (made.length) begun(made, sent);
}

function begun(made, sent) {
  for (const job of made) pictures.set(job.id, sent);
  if (made.length === 2) memory.set('pairs', [made.map((job) => job.id), ...memory.get('pairs', [])].slice(0, 50));
  openView(made);
  earlier.refresh().catch(report);
  $('view-heading').scrollIntoView({ block: 'nearest', behavior: calm.matches ? 'auto' : 'smooth' });
}

function refused(error) {
  report(error);
  const field = error.param ? form.elements.namedItem(error.param) : null;
  if (!field) return;
  field.setAttribute('aria-invalid', 'true');
  if ($('more').contains(field)) $('more').open = true;
  field.focus();
}

// One job in view

const pictures = new Map(); // by id: what this page sent, to show while its video is being made
let screens = [];

class Screen {
  constructor(job) {
    this.job = job;
    this.id = job.id;
    this.root = clone('screen-template');
    this.parts = new Proxy({}, { get: (_, name) => this.root.querySelector(`.${name}`) });
    this.leave = new AbortController();
    this.urls = [];
    this.isLoading = false;
    this.isLoaded = false;
    this.lost = 0;
    this.said = '';
    this.parts.cancel.addEventListener('click', () => this.cancel());
    this.parts.reuse.addEventListener('click', () => reuse(this.job));
    this.showPicture();
    this.show(job);
    this.run();
  }

  get video() {
    return this.parts['frame-video'];
  }

  async run() {
    try {
      if (!FINAL.has(this.job.status)) {
        await follow(this.id, {
          signal: this.leave.signal,
          onJob: (job) => { this.lost = 0; this.show(job); },
          onLost: (failures) => { this.lost = failures; this.showRunning(); },
        });
      }
      if (this.job.status === 'completed') await this.load();
    } catch (error) {
      if (!this.leave.signal.aborted) this.fail(error);
    }
  }

  close() {
    this.leave.abort();
    this.video.removeAttribute('src');
    this.video.load();
    for (const url of this.urls) URL.revokeObjectURL(url);
    this.root.remove();
  }

  urlOf(blob) {
    const url = URL.createObjectURL(blob);
    this.urls.push(url);
    return url;
  }

  showPicture() {
    const [width, height] = this.job.size.split('x');
    this.parts.frame.style.setProperty('--ratio', width / height);
    const sent = pictures.get(this.id);
    if (!sent) return;
    this.parts['frame-picture'].src = this.urlOf(sent.file);
    this.parts['frame-picture'].classList.toggle('stretch', sent.fit === 'stretch');
    this.parts['frame-picture'].hidden = false;
    this.parts['frame-note'].hidden = true;
  }

  show(job) {
    this.job = job;
    setText(this.parts['screen-title'], cutTitle(job));
    showBadge(this.parts.badge, job);
    this.root.dataset.status = job.status;
    setText(this.parts['frame-note'], job.status === 'in_progress' ? `${job.progress} %` : '');
    this.showRunning();
    if (FINAL.has(job.status)) this.showEnd();
    earlier.update(job);
    showTitle();
  }

  showRunning() {
    const { job, parts } = this;
    const isFinal = FINAL.has(job.status);
    parts.running.hidden = isFinal;
    if (isFinal) return;
    showBar(parts.bar, job);
    const text = this.lost ? 'The connection is lost. Trying again …' : whatHappens(job);
    setText(parts['running-text'], text);
    parts.bar.setAttribute('aria-valuetext', text);
    parts.cancel.disabled = job.cancel_requested;
    setText(parts.cancel, job.cancel_requested ? 'Cancelling …' : 'Cancel');
    this.say(this.lost ? text : stageText(job));
  }

  showEnd() {
    const { job, parts } = this;
    if (job.status === 'failed') this.showProblem(sentence(job.error?.message ?? 'the job failed'));
    if (job.status === 'cancelled') this.showProblem('Cancelled. No video was made.');
    parts.done.hidden = false;
    parts.numbers.replaceChildren(...numbersOf(job).map(numberItem));
    showTimes(parts, job, job.timings.ran ?? 0);
    const ran = job.timings.ran === undefined ? '' : `ran ${duration(job.timings.ran)}`;
    setText(parts['screen-time'], ran);
    this.say([STATUS[job.status], ran].filter(Boolean).join(', '));
  }

  /** To screen readers: each stage once, not each step. */
  say(text) {
    if (text === this.said) return;
    this.said = text;
    announce(`${cutTitle(this.job)}: ${text}`);
  }

  showProblem(text) {
    setText(this.parts.problem, text);
    this.parts.problem.hidden = false;
  }

  async load() {
    if (this.isLoading) return;
    this.isLoading = true;
    const blob = await this.fetchVideo();
    const { video, parts } = this;
    const url = this.urlOf(blob);
    video.src = url;
    video.hidden = false;
    video.setAttribute('aria-label', `Video, ${cutTitle(this.job).toLowerCase()}, seed ${this.job.seed}`);
    parts.download.href = url;
    parts.download.download = fileName(this.job);
    parts.download.hidden = false;
    video.addEventListener('error', () => this.showProblem('This browser cannot play the video. You can download it.'));
    if (!calm.matches) video.play().catch(() => {}); // a browser may refuse; its controls are there
    this.isLoaded = true;
    together();
  }

  async fetchVideo() {
    for (let attempt = 1; ; attempt += 1) {
      try {
        return await (await ask(videoPath(this.id, '/content'), { signal: this.leave.signal })).blob();
      } catch (error) {
        const isPassing = error instanceof NoAnswer || error instanceof TypeError || error.status >= 500;
        if (!isPassing || attempt === MOST_SENDS) throw error;
        await sleep(pauseBefore(attempt - 1), this.leave.signal);
      }
    }
  }

  fail(error) {
    if (error.status === 404) earlier.forget(this.id);
    this.parts.running.hidden = true;
    this.showProblem(error.status === 404 ? 'This video was deleted.' : messageOf(error));
    if (error.status === 401) report(error);
  }

  async cancel() {
    await end(this.job);
  }
}

function showBadge(badge, job) {
  setText(badge, job.cancel_requested && !FINAL.has(job.status) ? 'Cancelling' : STATUS[job.status] ?? job.status);
  badge.dataset.status = job.status;
}

/** The stage of the step that is being made; the server names that of the last one that is done. */
function stageOf(job) {
  const { step, stage, cut_step: cut, num_inference_steps: steps } = job;
  if (step === 0 || step >= steps) return stage;
  return step + 1 < cut ? 'semantic binding' : 'quality improvement';
}

function stageText(job) {
  if (job.status === 'queued') {
    const place = job.queue_position;
    return place === null ? 'Queued' : place === 1 ? 'Queued, the next one' : `Queued, position ${place}`;
  }
  const stage = stageOf(job);
  return STAGE[stage] ?? sentence(stage ?? 'Running');
}

function whatHappens(job) {
  const { step, num_inference_steps: steps } = job;
  const inSteps = job.status === 'in_progress' && (step > 0 || KIND[job.stage]) && step < steps;
  return inSteps ? `${stageText(job)}, step ${step + 1} of ${steps}` : stageText(job);
}

function showBar(bar, job) {
  const { step, cut_step: cut, num_inference_steps: steps } = job;
  bar.setAttribute('aria-valuemax', steps);
  bar.setAttribute('aria-valuenow', step);
  bar.setAttribute('aria-label', `Steps, ${cutTitle(job).toLowerCase()}`);
  bar.classList.toggle('fine', steps > MOST_CELLS);
  const running = job.status === 'in_progress' && step < steps ? step : -1;
  showSegment(bar.querySelector('.binding'), 0, cut - 1, step, running);
  showSegment(bar.querySelector('.quality'), cut - 1, steps, step, running);
}

function showSegment(segment, first, last, done, running) {
  const count = last - first;
  segment.hidden = count === 0;
  if (count === 0) return;
  segment.style.flexGrow = count;
  segment.style.setProperty('--cells', count);
  segment.style.setProperty('--done', clamp(done - first, 0, count));
  segment.classList.toggle('live', running >= first && running < last);
}

function numbersOf(job) {
  const { timings } = job;
  const numbers = [['Seed', job.seed], ['Steps', job.num_inference_steps]];
  if (timings.waited !== undefined) numbers.push(['Waited', duration(timings.waited)]);
  if (job.status === 'completed') numbers.push(['Length', `${job.seconds} s, ${job.num_frames} frames`]);
  return numbers;
}

function numberItem([name, value]) {
  const item = element('div');
  item.append(element('dt', '', name), element('dd', '', value));
  return item;
}

/** A bar of the seconds of each stage; `longest` seconds fill the width. */
function showTimes(parts, job, longest) {
  const stages = Object.entries(job.timings).filter(([name]) => name !== 'ran' && name !== 'waited');
  const ran = job.timings.ran ?? 0;
  const rest = ran - stages.reduce((sum, [, seconds]) => sum + seconds, 0);
  if (stages.length && rest > 0.01 * ran) stages.push(['rest', rest]);
  parts.times.hidden = !stages.length;
  parts.times.replaceChildren(...stages.map(([name, seconds]) => timePiece(name, seconds / longest)));
  parts['time-list'].replaceChildren(...stages.map(([name, seconds]) => timeItem(name, seconds)));
}

function timePiece(name, share) {
  const piece = element('span', `piece kind-${KIND[name] ?? 'rest'}`);
  piece.style.width = `${100 * share}%`;
  return piece;
}

function timeItem(name, seconds) {
  const item = element('li', `kind-${KIND[name] ?? 'rest'}`);
  const title = { decode: 'Decoding', encode: 'MP4', rest: 'Everything else' }[name] ?? STAGE[name] ?? sentence(name);
  item.append(element('span', '', title), ' ', element('span', 'number', duration(seconds)));
  return item;
}

const fileName = (job) => `vcut-c${job.cut_step}of${job.num_inference_steps}-seed${job.seed}.mp4`;

function showTitle() {
  const running = screens.find((screen) => screen.job.status === 'in_progress')?.job;
  document.title = running ? `${running.step}/${running.num_inference_steps} · vcut` : 'vcut';
}

/** Cancel a job that has not ended, or delete one that has. */
async function end(job) {
  try {
    const answer = await askJson(videoPath(job.id), { method: 'DELETE' });
    if (answer.deleted) gone(job.id);
    else seen(answer);
  } catch (error) {
    if (error.status === 404) gone(job.id);
    else report(error);
  }
}

function seen(job) {
  earlier.update(job);
  screens.find((screen) => screen.id === job.id && !FINAL.has(screen.job.status))?.show(job);
}

function gone(id) {
  earlier.forget(id);
  pictures.delete(id);
  const left = screens.filter((screen) => screen.id !== id);
  if (left.length < screens.length) openView(left.map((screen) => screen.job));
}

// What is in view: one job, or two side by side

let player = null;
let views = 0; // that were asked for: what was asked for before comes too late

function openView(jobs) {
  views += 1;
  player?.close();
  player = null;
  for (const screen of screens) screen.close();
  $('together').hidden = true;
  screens = [];
  for (const job of jobs) {
    const screen = new Screen(job);
    screens.push(screen);
    $('screens').append(screen.root);
  }
  $('view-empty').hidden = jobs.length > 0;
  $('screens').classList.toggle('two', jobs.length === 2);
  setText($('view-heading'), jobs.length === 2 ? 'Two videos' : 'Video');
  memory.set('view', jobs.map((job) => job.id));
  showTitle();
}

/** Once both videos of a pair are there, they play as one, and their times have one scale. */
function together() {
  if (screens.length !== 2 || !screens.every((screen) => screen.isLoaded) || player) return;
  const [first, second] = screens.map((screen) => screen.job);
  const longest = Math.max(first.timings.ran, second.timings.ran);
  for (const screen of screens) showTimes(screen.parts, screen.job, longest);
  setText($('verdict'), verdict(first, second));
  $('together').hidden = false;
  if (first.fps === second.fps) player = new PairPlayer(screens.map((screen) => screen.video), first);
}

function verdict(first, second) {
  const [fast, slow] = [first, second].sort((one, other) => one.timings.ran - other.timings.ran);
  const less = Math.round(100 * (1 - fast.timings.ran / slow.timings.ran));
  const names = [fast, slow].map((job) => cutName(job.cut_step, job.num_inference_steps));
  return sentence(
    `${duration(fast.timings.ran)} ${names[0]}, ${duration(slow.timings.ran)} ${names[1]}: ` +
      (less ? `${less} % less time` : 'no difference'),
  );
}

class PairPlayer {
  constructor(videos, job) {
    [this.lead, this.tail] = videos;
    this.fps = job.fps;
    this.frames = job.num_frames;
    this.isPlaying = false;
    this.leave = new AbortController();
    for (const video of videos) {
      video.controls = false;
      video.loop = false;
      this.on(video, 'click', () => this.toggle());
      this.on(video, 'pause', () => !video.ended && this.isPlaying && this.pause());
    }
    this.on(this.lead, 'ended', () => this.isPlaying && this.play(0));
    this.on($('play'), 'click', () => this.toggle());
    this.on($('back'), 'click', () => this.step(-1));
    this.on($('forward'), 'click', () => this.step(1));
    this.on($('scrub'), 'input', () => this.seek(Number($('scrub').value)));
    $('scrub').max = this.frames - 1;
    if (calm.matches) this.seek(0);
    else this.play(0);
  }

  on(target, name, use) {
    target.addEventListener(name, use, { signal: this.leave.signal });
  }

  close() {
    this.isPlaying = false;
    this.leave.abort();
  }

  get frame() {
    return clamp(Math.floor(this.lead.currentTime * this.fps + 0.01), 0, this.frames - 1);
  }

  toggle() {
    if (this.isPlaying) this.pause();
    else this.play();
  }

  play(from = this.frame === this.frames - 1 ? 0 : this.frame) {
    this.isPlaying = true;
    this.place(from, 0);
    for (const video of [this.lead, this.tail]) video.play().catch(() => this.pause());
    this.show();
    requestAnimationFrame(() => this.tick());
  }

  pause() {
    this.isPlaying = false;
    for (const video of [this.lead, this.tail]) video.pause();
    this.place(this.frame); // both on the same frame
    this.show();
  }

  step(by) {
    const frame = (this.frame + by + this.frames) % this.frames;
    this.pause();
    this.seek(frame);
  }

  seek(frame) {
    if (this.isPlaying) this.pause();
    this.place(frame);
    this.show(frame);
  }

  /** Show a frame: from its middle, where no rounding finds its neighbour; to play on, from its beginning. */
  place(frame, within = 0.5) {
    for (const video of [this.lead, this.tail]) video.currentTime = (frame + within) / this.fps;
  }

  /** While they play: the second follows the first, should it drift by most of a frame. */
  tick() {
    if (!this.isPlaying) return;
    const drift = Math.abs(this.lead.currentTime - this.tail.currentTime);
    const isNearEnd = this.frame >= this.frames - 1;
    if (drift > Math.max(0.6 / this.fps, 0.05) && !this.tail.seeking && !isNearEnd) {
      this.tail.currentTime = this.lead.currentTime;
    }
    this.show();
    requestAnimationFrame(() => this.tick());
  }

  show(frame = this.frame) {
    $('play').classList.toggle('is-playing', this.isPlaying);
    $('play').setAttribute('aria-label', this.isPlaying ? 'Pause' : 'Play');
    $('scrub').value = frame;
    $('scrub').setAttribute('aria-valuetext', `Frame ${frame + 1} of ${this.frames}`);
    setText($('transport-text'), `Frame ${frame + 1} of ${this.frames}`);
  }
}

// Earlier videos

const when = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'short' });

const earlier = {
  jobs: [],
  rows: new Map(),
  hasMore: false,
  askedAt: 0,

  /** The newest page is asked for anew; what follows it, as far as it was shown, stays. */
  async refresh() {
    this.askedAt = performance.now();
    const page = await askJson(`v1/videos?limit=${PAGE_JOBS}`, { cache: 'no-store' });
    const last = this.jobs.findIndex((job) => job.id === page.last_id);
    const older = page.has_more && last >= 0 ? this.jobs.slice(last + 1) : [];
    this.jobs = [...page.data, ...older];
    if (!older.length) this.hasMore = page.has_more;
    this.show();
  },

  async more() {
    const last = this.jobs.at(-1)?.id;
    const page = await askJson(`v1/videos?limit=${PAGE_JOBS}&after=${last}`, { cache: 'no-store' });
    const known = new Set(this.jobs.map((job) => job.id));
    this.jobs.push(...page.data.filter((job) => !known.has(job.id)));
    this.hasMore = page.has_more;
    this.show();
  },

  update(job) {
    const place = this.jobs.findIndex((known) => known.id === job.id);
    if (place < 0) return;
    this.jobs[place] = job;
    this.showRow(job);
  },

  forget(id) {
    if (this.rows.get(id)?.contains(document.activeElement)) $('history-heading').focus();
    this.jobs = this.jobs.filter((job) => job.id !== id);
    this.show();
  },

  clear() {
    this.jobs = [];
    this.hasMore = false;
    this.show();
  },

  /** Rows that stay are not moved: moving one would take the focus from it. */
  show() {
    const wanted = new Set(this.jobs.map((job) => job.id));
    for (const [id, row] of this.rows) {
      if (wanted.has(id)) continue;
      row.remove();
      this.rows.delete(id);
    }
    this.jobs.forEach((job, place) => {
      const row = this.showRow(job);
      if ($('jobs').children[place] !== row) $('jobs').insertBefore(row, $('jobs').children[place] ?? null);
    });
    $('history-empty').hidden = this.jobs.length > 0;
    $('older').hidden = !this.hasMore;
  },

  showRow(job) {
    const row = this.rows.get(job.id) ?? this.newRow(job.id);
    const part = (name) => row.querySelector(`.${name}`);
    const isFinal = FINAL.has(job.status);
    setText(part('job-title'), cutTitle(job));
    showBadge(part('badge'), job);
    setText(part('job-detail'), rowDetail(job));
    const share = (job.cut_step - 1) / job.num_inference_steps;
    row.style.setProperty('--share', share);
    row.style.setProperty('--done', job.status === 'completed' ? 1 : job.step / job.num_inference_steps);
    part('remove').disabled = !isFinal && job.cancel_requested;
    const name = `${cutTitle(job)}, seed ${job.seed}`;
    setText(part('remove'), isFinal ? 'Delete' : 'Cancel');
    part('remove').setAttribute('aria-label', `${isFinal ? 'Delete' : 'Cancel'}: ${name}`);
    part('open').setAttribute('aria-label', `Open: ${name}`);
    return row;
  },

  newRow(id) {
    const row = clone('job-template');
    this.rows.set(id, row);
    row.querySelector('.open').addEventListener('click', () => openJob(id));
    row.querySelector('.remove').addEventListener('click', () => this.remove(id));
    return row;
  },

  async remove(id) {
    const job = this.jobs.find((known) => known.id === id);
    if (job && (job.status !== 'completed' || (await isSure(job)))) await end(job);
  },
};

function rowDetail(job) {
  const details = [when.format(1000 * job.created_at), `${job.num_inference_steps} steps`, `seed ${job.seed}`];
  if (job.status === 'completed') details.push(`ran ${duration(job.timings.ran)}`);
  if (job.status === 'queued' && job.queue_position !== null) details.push(`position ${job.queue_position}`);
  if (job.status === 'in_progress') details.push(`${job.step} done`);
  return details.join(' · ');
}

async function openJob(id) {
  const pair = memory.get('pairs', []).find((ids) => ids.includes(id)) ?? [id];
  await openIds(pair, id);
  $('view-heading').focus();
}

/** Open the jobs that are still there; `wanted` is said to be missing, a lost partner is not. */
async function openIds(ids, wanted) {
  const turn = (views += 1);
  const found = await Promise.allSettled(ids.map((id) => look(id)));
  if (turn !== views) return;
  const jobs = found.filter((one) => one.status === 'fulfilled').map((one) => one.value);
  found.forEach(({ reason }, place) => {
    if (reason?.status === 404) earlier.forget(ids[place]);
    if (reason && (reason.status !== 404 || ids[place] === wanted)) report(reason);
  });
  if (jobs.length) openView(jobs);
}

function isSure(job) {
  const dialog = $('confirm');
  setText($('confirm-text'), `Delete the video “${cutTitle(job)}, seed ${job.seed}” for good?`);
  dialog.returnValue = 'keep';
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener('close', () => resolve(dialog.returnValue === 'delete'), { once: true });
  });
}

/** Keep the list fresh: often while something happens, seldom else, never while nobody looks. */
async function keepListFresh() {
  for (;;) {
    await sleep(1);
    if (document.hidden) await whenShown();
    const isBusy = earlier.jobs.some((job) => !FINAL.has(job.status));
    const age = (performance.now() - earlier.askedAt) / 1000;
    if (age < (isBusy ? LIST_SECONDS.busy : LIST_SECONDS.idle) || (server.needs_key && !apiKey)) continue;
    await earlier.refresh().catch(() => {}); // the user did not ask for it, and is not told
  }
}

// The key

function askForKey() {
  if (!server.needs_key) return;
  $('key').focus();
}

async function useKey(key) {
  apiKey = key;
  memory.set('key', key);
  $('key').value = '';
  $('key-forget').hidden = !key;
  $('key').placeholder = key ? 'a key is in use' : '';
  openView([]);
  earlier.clear();
  if (key) await showJobs();
}

async function tryKey() {
  untell();
  const before = apiKey;
  try {
    apiKey = $('key').value.trim();
    await askJson('v1/videos?limit=1', { cache: 'no-store' });
  } catch (error) {
    report(error);
    apiKey = before;
    $('key').select();
    return;
  }
  await useKey(apiKey);
  announce('The key is in use.');
}

function listenForKey() {
  $('key-form').addEventListener('submit', (event) => {
    event.preventDefault();
    tryKey();
  });
  $('key-forget').addEventListener('click', () => {
    useKey('');
    $('key').focus();
  });
}

// Beginning

/** What was in view before a reload, else what is being made. */
async function showJobs() {
  await earlier.refresh();
  const unfinished = earlier.jobs.filter((job) => !FINAL.has(job.status)).map((job) => job.id);
  const before = memory.get('view', []);
  const ids = before.length ? before : unfinished.slice(-1); // the oldest one is being made
  if (ids.length) await openIds(ids, null);
}

async function whatServer() {
  for (let attempt = 0; ; attempt += 1) {
    try {
      const found = await askJson('v1/server', { cache: 'no-store' });
      $('offline').hidden = true;
      return found;
    } catch {
      $('offline').hidden = false;
      await sleep(pauseBefore(attempt));
    }
  }
}

function showServer() {
  const [width, height] = server.size.split('x');
  setText($('fact-model'), server.model);
  setText($('fact-size'), `${width} × ${height}`);
  setText($('fact-frames'), String(server.num_frames));
  $('facts').hidden = false;
  $('random-weights').hidden = !server.random_weights;
  $('key-form').hidden = !server.needs_key;
  $('drop').style.setProperty('--ratio', width / height);
  $('num_inference_steps').value = server.num_inference_steps;
  const of = server.num_inference_steps;
  Object.assign(chosen, { cut: { step: server.cut_step, of }, other: { step: of + 1, of } });
  setSteps(of);
  form.inert = false; // before, what is typed would be overwritten here
}

/** The server has no icon; without a link the browser would ask for one, and log a 404. */
function showIcon() {
  const block = (x, width, fill) => `<rect x="${x}" y="9" width="${width}" height="14" rx="3" fill="${fill}"/>`;
  const blocks = block(1, 18, '#5a63d8') + block(21, 10, '#d98712');
  const drawing = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">${blocks}</svg>`;
  const link = element('link');
  link.rel = 'icon';
  link.href = URL.createObjectURL(new Blob([drawing], { type: 'image/svg+xml' }));
  document.head.append(link);
}

async function begin() {
  showIcon();
  listenForPictures();
  listenForSettings();
  listenForKey();
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    submit();
  });
  $('send-stop').addEventListener('click', () => sending?.abort());
  $('alert-close').addEventListener('click', untell);
  $('older').addEventListener('click', () => earlier.more().catch(report));
  server = await whatServer();
  showServer();
  keepListFresh();
  try {
    if (!server.needs_key) await showJobs();
    else if (apiKey) await useStoredKey();
    else askForKey();
  } catch (error) {
    report(error);
  }
}

async function useStoredKey() {
  $('key-forget').hidden = false;
  $('key').placeholder = 'a key is in use';
  await showJobs();
}

begin();
