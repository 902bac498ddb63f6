// The page of `vcut serve`: submits jobs, watches them, shows their videos.
// Whatever the server says becomes text or a property, never markup.
// Modules import one way: dom ← api, picture, plan ← earlier ← screen ← pair ← submit, key ← app. What one of them has to
// tell a later one goes through functions that it is given. What changes is assigned in one file, and read from it.

import { askForKey, key, report, whatServer } from './api.js';
import { $, element, form, setText, untell } from './dom.js';
import { earlier, keepListFresh } from './earlier.js';
import { listenForKey, useStoredKey } from './key.js';
import { end, openJob, showJobs } from './pair.js';
import { listenForPictures } from './picture.js';
import { chosen, listenForSettings, setSteps } from './plan.js';
import { listenForSubmit } from './submit.js';

function showServer(server) {
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
  listenForSubmit();
  earlier.listen({ open: openJob, end });
  $('alert-close').addEventListener('click', untell);
  $('older').addEventListener('click', () => earlier.more().catch(report));
  const server = await whatServer();
  showServer(server);
  keepListFresh();
  try {
    if (!server.needs_key) await showJobs();
    else if (key()) await useStoredKey();
    else askForKey();
  } catch (error) {
    report(error);
  }
}

begin();
