// What is in view: one job, or two side by side.

import { askJson, look, report, videoPath } from './api.js';
import { $, FINAL, calm, clamp, cutName, duration, memory, sentence, setText } from './dom.js';
import { earlier } from './earlier.js';
import { Screen, pictures, showTimes } from './screen.js';

let screens = [];
let player = null;
let views = 0; // that were asked for: what was asked for before comes too late

export function openView(jobs) {
  views += 1;
  player?.close();
  player = null;
  for (const screen of screens) screen.close();
  $('together').hidden = true;
  screens = [];
  for (const job of jobs) {
    const screen = new Screen(job, { onShow: showTitle, onLoad: together, onCancel: end });
    screens.push(screen);
    $('screens').append(screen.root);
  }
  $('view-empty').hidden = jobs.length > 0;
  $('screens').classList.toggle('two', jobs.length === 2);
  setText($('view-heading'), jobs.length === 2 ? 'Two videos' : 'Video');
  memory.set('view', jobs.map((job) => job.id));
  showTitle();
}

function showTitle() {
  const running = screens.find((screen) => screen.job.status === 'in_progress')?.job;
  document.title = running ? `${running.step}/${running.num_inference_steps} · vcut` : 'vcut';
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

export async function openJob(id) {
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

/** What was in view before a reload, else what is being made. */
export async function showJobs() {
  await earlier.refresh();
  const unfinished = earlier.jobs.filter((job) => !FINAL.has(job.status)).map((job) => job.id);
  const before = memory.get('view', []);
  const ids = before.length ? before : unfinished.slice(-1); // the oldest one is being made
  if (ids.length) await openIds(ids, null);
}

/** Cancel a job that has not ended, or delete one that has. */
export async function end(job) {
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
      // A video that ends pauses too, and tells it late: by then the loop may have begun it anew.
      this.on(video, 'pause', () => video.paused && !video.ended && this.isPlaying && this.pause());
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
