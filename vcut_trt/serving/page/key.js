// The API key: tried, kept in this tab, forgotten.

import { askJson, key, report, setKey } from './api.js';
import { $, announce, memory, untell } from './dom.js';
import { earlier } from './earlier.js';
import { openView, showJobs } from './pair.js';

async function useKey(text) {
  setKey(text);
  memory.set('key', text);
  $('key').value = '';
  $('key-forget').hidden = !text;
  $('key').placeholder = text ? 'a key is in use' : '';
  openView([]);
  earlier.clear();
  if (text) await showJobs();
}

async function tryKey() {
  untell();
  const before = key();
  try {
    setKey($('key').value.trim());
    await askJson('v1/videos?limit=1', { cache: 'no-store' });
  } catch (error) {
    report(error);
    setKey(before);
    $('key').select();
    return;
  }
  await useKey(key());
  announce('The key is in use.');
}

export function listenForKey() {
  $('key-form').addEventListener('submit', (event) => {
    event.preventDefault();
    tryKey();
  });
  $('key-forget').addEventListener('click', () => {
    useKey('');
    $('key').focus();
  });
}

export async function useStoredKey() {
  $('key-forget').hidden = false;
  $('key').placeholder = 'a key is in use';
  await showJobs();
}
