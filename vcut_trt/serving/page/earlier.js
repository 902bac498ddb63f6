// Earlier videos: the list. It knows nothing of what is in view: it is told what the buttons of a row do.

import { askJson, key, serverInfo } from './api.js';
import { $, FINAL, clone, cutTitle, duration, setText, showBadge, sleep, whenShown } from './dom.js';

const LIST_SECONDS = { busy: 4, idle: 30 };
const PAGE_JOBS = 20;

const when = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'short' });

export const earlier = {
  jobs: [],
  rows: new Map(),
  hasMore: false,
  askedAt: 0,
  acts: null, // what the buttons of a row do: open(id), end(job)

  listen(acts) {
    this.acts = acts;
  },

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
    row.querySelector('.open').addEventListener('click', () => this.acts.open(id));
    row.querySelector('.remove').addEventListener('click', () => this.remove(id));
    return row;
  },

  async remove(id) {
    const job = this.jobs.find((known) => known.id === id);
    if (job && (job.status !== 'completed' || (await isSure(job)))) await this.acts.end(job);
  },
};

function rowDetail(job) {
  const details = [when.format(1000 * job.created_at), `${job.num_inference_steps} steps`, `seed ${job.seed}`];
  if (job.status === 'completed') details.push(`ran ${duration(job.timings.ran)}`);
  if (job.status === 'queued' && job.queue_position !== null) details.push(`position ${job.queue_position}`);
  if (job.status === 'in_progress') details.push(`${job.step} done`);
  return details.join(' · ');
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
export async function keepListFresh() {
  for (;;) {
    await sleep(1);
    if (document.hidden) await whenShown();
    const isBusy = earlier.jobs.some((job) => !FINAL.has(job.status));
    const age = (performance.now() - earlier.askedAt) / 1000;
    if (age < (isBusy ? LIST_SECONDS.busy : LIST_SECONDS.idle) || (serverInfo().needs_key && !key())) continue;
    await earlier.refresh().catch(() => {}); // the user did not ask for it, and is not told
  }
}
