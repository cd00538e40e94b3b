// Requests as curl commands.

import { $, say } from "./page.js";
import { address, mediaType } from "./requests.js";
import { state } from "./state.js";

/** A text as one word of a shell. */
function quoted(text) {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

/** A request as a curl command. The key itself is never in it. */
export function curl(path, params, options = []) {
  const { file } = state.picture;
  const key = $("key").value.trim() ? [`-H "Authorization: Bearer $VITRUM_API_KEY"`] : [];
  const body = [`-H ${quoted(`Content-Type: ${mediaType(file)}`)}`, `--data-binary ${quoted(`@${file.name}`)}`];
  return ["curl -sS", ...key, ...options, ...body, quoted(address(path, params).href)].join(" \\\n  ");
}

export async function copy(command) {
  $("command-box").hidden = true;
  try {
    await navigator.clipboard.writeText(command);
    say("The command is in the clipboard.");
  } catch {
    // Without https the browser gives no clipboard.
    $("command").value = command;
    $("command-box").hidden = false;
    $("command").focus();
    $("command").select();
  }
}
