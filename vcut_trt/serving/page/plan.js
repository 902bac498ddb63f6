// Steps and cut steps, and the other settings of the form.

import { $, announce, calm, form, setText } from './dom.js';

const [SMALLEST_SEED, LARGEST_SEED] = [-(2n ** 63n), 2n ** 64n - 1n];

export const plan = { steps: 25, cut: 17, other: 26 };

// What was chosen last, and of how many steps. Other steps are cut at the same share, as the server does it: while a
// number is being typed, its first digit alone changes nothing for good. Never stays never.
export const chosen = { cut: { step: 17, of: 25 }, other: { step: 26, of: 25 } };

const scaled = ({ step, of }, steps) => Math.round((steps * (step - 1)) / of) + 1;

export function setSteps(steps) {
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
  const seed = /^-?\d+$/.test(text) ? BigInt(text) : 0n; // what is no number at all, the pattern refuses
  const isOutside = seed < SMALLEST_SEED || seed > LARGEST_SEED;
  $('seed').setCustomValidity(isOutside ? `From ${SMALLEST_SEED} to ${LARGEST_SEED}.` : '');
}

export function listenForSettings() {
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

export function reuse(job) {
  $('num_inference_steps').value = job.num_inference_steps;
  setSteps(job.num_inference_steps);
  $('cut_step').value = job.cut_step;
  setCut('cut', job.cut_step);
  const numbers = ['seed', 'fps', 'motion_bucket_id', 'noise_aug_strength', 'min_guidance_scale', 'max_guidance_scale'];
  for (const name of [...numbers, 'grid']) $(name).value = job[name];
  checkSeed();
  $('job-heading').scrollIntoView({ behavior: calm.matches ? 'auto' : 'smooth' });
  $('cut_step').focus({ preventScroll: true });
  announce('The settings were taken over.');
}
