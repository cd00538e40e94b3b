// Requests to the server that the page came from, and to no other.

import { $, fail } from "./page.js";

/** The running request of each kind. */
const running = {};

const STATUS_WORDS = {
  400: "The server refuses this",
  401: "The server asks for an API key, or does not accept this one",
  404: "The server does not have this",
  413: "The picture is too large for the server",
  415: "The server cannot read this kind of file",
  422: "The server refuses this",
  429: "The server is busy",
  500: "The server made a mistake",
  503: "The server is not ready",
  504: "The server took too long",
};

/** The address of a route with parameters. Those that are undefined are left out. */
export function address(path, params = {}) {
  const url = new URL(path, document.baseURI);
  for (const [name, value] of Object.entries(params)) {
    if (value !== undefined) url.searchParams.set(name, value);
  }
  return url;
}

function headers(picture) {
  const sent = { Accept: "application/json" };
  if (picture) sent["Content-Type"] = mediaType(picture);
  const key = $("key").value.trim();
  if (/[^\x21-\x7e]/.test(key)) throw new Error("The API key has characters that cannot be sent.");
  if (key) sent.Authorization = `Bearer ${key}`;
  return sent;
}

export function mediaType(file) {
  return file.type || "application/octet-stream";
}

/** The server's answer as JSON, and the round trip in milliseconds. Throws an error in plain words. */
export async function ask(path, { params, picture, signal } = {}) {
  const begun = performance.now();
  const request = { headers: headers(picture), signal, cache: "no-store" };
  if (picture) Object.assign(request, { method: "POST", body: picture });
  let response, text;
  try {
    response = await fetch(address(path, params), request);
    text = await response.text();
  } catch {
    signal?.throwIfAborted();
    throw new Error(`The server at ${location.host} gives no answer, or the picture's file cannot be read.`);
  }
  signal?.throwIfAborted();
  if (!response.ok) throw new Error(refusal(response, text));
  const elapsed = performance.now() - begun, answer = parsed(text);
  if (!answer) throw new Error("The server's answer is not a JSON object.");
  return { answer, elapsed };
}

/** The object of a JSON text; undefined if it has none. */
function parsed(text) {
  try {
    return JSON.parse(text) ?? undefined;
  } catch {
    return undefined;
  }
}

/** A refusal in words, with what the server says about it. */
function refusal(response, text) {
  if (response.status === 401) $("key-details").open = true;
  // If something between the page and the server answered, the status has to be enough.
  const reason = parsed(text)?.error;
  const words = STATUS_WORDS[response.status] ?? `The server answers with status ${response.status}`;
  const sentence = reason ? `${words}: ${reason}` : words;
  const wait = Number(response.headers.get("Retry-After"));
  const later = wait > 0 ? ` Try again in ${wait} s.` : "";
  return (/[.!?]$/.test(sentence) ? sentence : `${sentence}.`) + later;
}

/** Ends the running request of a kind. */
export function stop(kind) {
  running[kind]?.abort();
  delete running[kind];
}

/** Runs a request. A later one of the same kind ends it. True if it is done, false if it failed, undefined if ended. */
export async function run(kind, region, work, again) {
  stop(kind);
  const controller = new AbortController();
  running[kind] = controller;
  region.setAttribute("aria-busy", "true");
  try {
    await work(controller.signal);
    return true;
  } catch (error) {
    if (controller.signal.aborted) return undefined;
    fail(error, again);
    return false;
  } finally {
    if (running[kind] === controller) region.removeAttribute("aria-busy");
  }
}

/** The picture of a `data:` address. */
export async function loadImage(source) {
  if (!source?.startsWith("data:image/")) throw new Error("The server's answer has no picture.");
  const image = new Image();
  image.src = source;
  try {
    await image.decode();
  } catch {
    throw new Error("The picture of the server's answer cannot be read.");
  }
  return image;
}
