// The API key.

import { $ } from "./page.js";

const KEY = "vitrum-api-key";

/** Keeps the key for this tab alone. Without storage it lasts until the page is left. */
export function watchKey(changed) {
  try {
    $("key").value = sessionStorage.getItem(KEY) ?? "";
  } catch {
    // The browser forbids storage.
  }
  $("key").addEventListener("change", ({ target }) => {
    try {
      if (target.value.trim()) sessionStorage.setItem(KEY, target.value.trim());
      else sessionStorage.removeItem(KEY);
    } catch {
      // As above.
    }
    changed();
  });
}
