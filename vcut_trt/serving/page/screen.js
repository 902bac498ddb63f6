// One job in view: its picture and steps while it is made, then its video and times.

import { MOST_SENDS, NoAnswer, ask, follow, messageOf, pauseBefore, report, videoPath } from './api.js';
import {
  FINAL, STATUS, announce, calm, clamp, clone, cutTitle, duration, element, sentence, setText, showBadge, sleep,
} from './dom.js';
import { earlier } from './earlier.js';
import { reuse } from './plan.js';

const STAGE = {
  starting: 'Preparing',
  condition: 'Reading the picture',
  'semantic binding': 'Semantic binding',
  'quality improvement': 'Quality improvement',
  decode: 'Decoding the frames',
  encode: 'Writing the MP4',
};
const KIND = { 'semantic binding': 'binding', 'quality improvement': 'quality', decode: 'decode', encode: 'encode' };
const MOST_CELLS = 50; // of a step bar; more steps are not drawn one by one

export const pictures = new Map(); // by id: what this page sent, to show while its video is being made

/** A job on the page. `onShow()` hears that its state is another, `onLoad()` that its video is there. */
export class Screen {
  constructor(job, { onShow, onLoad, onCancel }) {
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
    this.onShow = onShow;
    this.onLoad = onLoad;
    this.parts.cancel.addEventListener('click', () => onCancel(this.job));
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
    this.onShow();
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
    this.onLoad();
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
}

function stageText(job) {
  if (job.status === 'queued') {
    const place = job.queue_position;
    return place === null ? 'Queued' : place === 1 ? 'Queued, the next one' : `Queued, position ${place}`;
  }
  return STAGE[job.stage] ?? sentence(job.stage ?? 'Running');
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
export function showTimes(parts, job, longest) {
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
