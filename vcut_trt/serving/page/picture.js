// The picture of the form: chosen, dropped or pasted.

import { $, setText, tell, untell } from './dom.js';

const PICTURES = ['image/jpeg', 'image/png', 'image/webp'];

export const picture = { file: null, url: '' };

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

export function listenForPictures() {
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
