// Submitting: one job, or two to compare.

import { MOST_SENDS, NoAnswer, askJson, pauseBefore, report } from './api.js';
import { $, calm, form, memory, randomHex, randomSeed, setText, sleep, untell } from './dom.js';
import { earlier } from './earlier.js';
import { openView } from './pair.js';
import { picture } from './picture.js';
import { plan } from './plan.js';
import { pictures } from './screen.js';

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

export function listenForSubmit() {
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    submit();
  });
  $('send-stop').addEventListener('click', () => sending?.abort());
}
