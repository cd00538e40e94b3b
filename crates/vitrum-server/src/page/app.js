// The page of vitrum's server: the classes of a picture, and what the model looks at. It asks only the server that
// it came from, and sets no inline style in markup, because the Content-Security-Policy forbids both.

const $ = (id) => document.getElementById(id);

const state = {
  models: [],
  model: undefined,
  /** The picture: its file, and a note about it. */
  picture: undefined,
  /** Whether the model answers with numbers instead of classes. */
  regression: false,
  /** The server's explanation, with the method and the picture as an image. */
  explanation: undefined,
};

/** The running request of each kind. */
const running = {};

// Words

/** A new element with a class and a text. */
function make(tag, name = "", text = "") {
  const element = document.createElement(tag);
  if (name) element.className = name;
  element.textContent = text;
  return element;
}

/** A probability in words. Rounding never makes one certain or impossible. */
function percent(prob) {
  if (prob > 0 && prob < 0.0005) return "< 0.1 %";
  if (prob < 1 && prob >= 0.9995) return "> 99.9 %";
  return `${(100 * prob).toFixed(1)} %`;
}

function duration(ms) {
  if (ms >= 1000) return `${(ms / 1000).toFixed(2)} s`;
  return ms < 10 ? `${ms.toFixed(1)} ms` : `${Math.round(ms)} ms`;
}

/** A number with three digits, for the ends of a scale. */
function brief(number) {
  const small = number !== 0 && Math.abs(number) < 0.001;
  return small ? number.toExponential(1) : Number(number.toPrecision(3)).toString();
}

function count(number) {
  if (number >= 1e6) return `${(number / 1e6).toFixed(1)} M`;
  return number >= 1000 ? `${Math.round(number / 1000)} k` : String(number);
}

/** The name of a class, or its index if it has none. */
function className({ index, label }) {
  const nameless = !label || label === String(index);
  return nameless ? `${state.regression ? "output" : "class"} ${index}` : label;
}

/** The probability of a class, or the number of a regression. */
function amount({ prob, value }) {
  return value === undefined ? percent(prob) : brief(value);
}

function say(text) {
  $("status").textContent = text;
}

/** Shows an error. `again` repeats what failed. */
function fail(error, again) {
  say("");
  $("error").textContent = error.message;
  $("again").hidden = !again;
  $("again").onclick = again;
}

function clearError() {
  $("error").textContent = "";
  $("again").hidden = true;
}

// Requests

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
function address(path, params = {}) {
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

function mediaType(file) {
  return file.type || "application/octet-stream";
}

/** The server's answer as JSON, and the round trip in milliseconds. Throws an error in plain words. */
async function ask(path, { params, picture, signal } = {}) {
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
function stop(kind) {
  running[kind]?.abort();
  delete running[kind];
}

/** Runs a request. A later one of the same kind ends it. True if it is done, false if it failed, undefined if ended. */
async function run(kind, region, work, again) {
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

// Models

async function loadModels() {
  clearError();
  await run("models", $("model-facts"), async (signal) => {
    const { answer } = await ask("v1/models", { signal });
    if (!answer.models?.length) throw new Error("The server has no models.");
    state.models = answer.models;
    $("model").replaceChildren(...answer.models.map(({ name }) => new Option(name, name)));
    $("model-choice").hidden = answer.models.length < 2;
    const kept = answer.models.find(({ name }) => name === state.model?.name);
    chooseModel(kept ?? answer.models.find((model) => model.default) ?? answer.models[0]);
  }, loadModels);
}

function can(what) {
  return state.model?.can?.includes(what) ?? false;
}

function chooseModel(model) {
  state.model = model;
  $("model").value = model.name;
  const facts = state.models.length === 1 ? [model.name] : [];
  facts.push(model.family, `${count(model.params)} parameters`, `input ${model.input.join(" × ")}`);
  if (model.num_classes) facts.push(`${model.num_classes} classes`);
  $("model-facts").textContent = facts.join(" · ");
  for (const field of [$("row"), $("column")]) field.value = "";
  $("layer").dataset.chosen = "";
  fillMethods();
  $("classes").hidden = !can("predict");
  showExplanationCard();
  if (state.picture) predict();
}

function showExplanationCard() {
  $("explanation").hidden = !can("explain") || !state.picture;
}

// Pictures

/** Takes a picture and asks for its classes. `made` is true for one that is in no folder of the user's. */
function takePicture(file, { made = false, note = "" } = {}) {
  if (!/^(image\/.*|application\/octet-stream|)$/.test(file.type)) {
    fail(new Error(`${file.name} is not a picture.`));
    return;
  }
  state.picture = { file, note };
  showPreview(file, made);
  showExplanationCard();
  if (state.model) predict();
  else loadModels();
}

function showPreview(file, made) {
  const preview = $("preview");
  if (preview.src) URL.revokeObjectURL(preview.src);
  preview.src = URL.createObjectURL(file);
  preview.hidden = false;
  $("file-name").textContent = file.name;
  $("save").hidden = !made;
  $("save").href = preview.src;
  $("save").download = file.name;
}

/** Takes the first of several files. */
function takeFiles(files) {
  if (!files?.length) return;
  takePicture(files[0], { note: files.length > 1 ? `Only the first of ${files.length} files is taken. ` : "" });
}

function watchPictures() {
  $("file").addEventListener("change", ({ target }) => {
    takeFiles([...target.files]);
    // So that the same file can be chosen again.
    target.value = "";
  });
  $("preview").addEventListener("load", ({ target }) => {
    target.classList.toggle("small", Math.max(target.naturalWidth, target.naturalHeight) <= 96);
  });
  // A picture that the browser cannot show is sent all the same: the server reads more kinds.
  $("preview").addEventListener("error", ({ target }) => { target.hidden = true; });
  document.addEventListener("paste", ({ clipboardData }) => {
    const file = [...clipboardData.files].find(({ type }) => type.startsWith("image/"));
    if (file) takePicture(file, { made: true });
  });
  const holdsFiles = ({ dataTransfer }) => dataTransfer?.types.includes("Files");
  // Files may be dropped anywhere: beside the zone the browser would leave the page.
  addEventListener("dragover", (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    $("drop").classList.add("over");
  });
  addEventListener("dragleave", ({ relatedTarget }) => {
    if (!relatedTarget) $("drop").classList.remove("over");
  });
  addEventListener("drop", (event) => {
    $("drop").classList.remove("over");
    if (!holdsFiles(event)) return;
    event.preventDefault();
    takeFiles(event.dataTransfer.files);
  });
}

/** Takes what is on a canvas. */
function takeCanvas(canvas, name, type) {
  canvas.toBlob((blob) => {
    if (blob) takePicture(new File([blob], name, { type }), { made: true });
    else fail(new Error("The browser cannot make a picture of this."));
  }, type, 0.95);
}

// Camera

const CAMERA_WORDS = {
  NotAllowedError: "The browser does not allow the camera. Allow it in the settings of this page.",
  NotFoundError: "There is no camera.",
  NotReadableError: "Another program uses the camera.",
};

async function watchCamera() {
  const devices = await navigator.mediaDevices?.enumerateDevices?.().catch(() => []);
  $("camera").hidden = !devices?.some(({ kind }) => kind === "videoinput");
  let opened = 0;
  $("camera").addEventListener("click", () => {
    opened += 1;
    const mine = opened;
    openCamera(() => mine === opened && $("camera-dialog").open);
  });
  $("video").addEventListener("loadeddata", () => { $("shoot").disabled = false; });
  $("shoot").addEventListener("click", shoot);
  $("camera-close").addEventListener("click", () => $("camera-dialog").close());
  $("camera-dialog").addEventListener("close", () => {
    stopStream($("video").srcObject);
    $("video").srcObject = null;
  });
}

/** Shows the camera, unless the dialog was closed in the meantime. */
async function openCamera(wanted) {
  $("shoot").disabled = true;
  $("camera-error").textContent = "";
  $("camera-dialog").showModal();
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    if (wanted()) $("video").srcObject = stream;
    else stopStream(stream);
  } catch (error) {
    $("camera-error").textContent = CAMERA_WORDS[error.name] ?? `The camera cannot be used: ${error.message}.`;
  }
}

function stopStream(stream) {
  stream?.getTracks().forEach((track) => track.stop());
}

function shoot() {
  const video = $("video"), canvas = make("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  $("camera-dialog").close();
  takeCanvas(canvas, "camera.jpg", "image/jpeg");
}

// Examples

/** A path through points, closed by the fill. */
function polygon(draw, points) {
  points.forEach(([x, y], at) => (at ? draw.lineTo(x, y) : draw.moveTo(x, y)));
}

/** `n` points around the centre at alternating radii. The first is at the top. */
function around(n, ...radii) {
  return Array.from({ length: n }, (_, at) => {
    const angle = (at / n) * 2 * Math.PI - Math.PI / 2, radius = radii[at % radii.length];
    return [radius * Math.cos(angle), radius * Math.sin(angle)];
  });
}

/** Shapes of radius about 1. */
const SHAPES = {
  disc: (draw) => draw.arc(0, 0, 0.88, 0, 2 * Math.PI),
  square: (draw) => draw.rect(-0.78, -0.78, 1.56, 1.56),
  triangle: (draw) => polygon(draw, around(3, 0.96)),
  star: (draw) => polygon(draw, around(10, 1, 0.42)),
  ring: (draw) => {
    draw.arc(0, 0, 0.92, 0, 2 * Math.PI);
    draw.arc(0, 0, 0.52, 0, 2 * Math.PI, true);
  },
};

/** Scenes: the shape and its colour, the two colours of the ground, centre and radius as shares, turn in radians. */
const SCENES = [
  { shape: "disc", colour: "#17384d", ground: ["#f6cf65", "#f2976b"], at: [0.46, 0.55], radius: 0.32, turn: 0 },
  { shape: "square", colour: "#f4e3c1", ground: ["#23406b", "#3b2450"], at: [0.55, 0.5], radius: 0.3, turn: 0.35 },
  { shape: "triangle", colour: "#7a1f2b", ground: ["#c9e4de", "#a8c9ee"], at: [0.5, 0.56], radius: 0.36, turn: 0.2 },
  { shape: "star", colour: "#ffd84d", ground: ["#1d2b4f", "#233f3a"], at: [0.48, 0.48], radius: 0.36, turn: 0.15 },
  { shape: "ring", colour: "#0e5a4a", ground: ["#f7d9e3", "#e9d8a6"], at: [0.54, 0.46], radius: 0.34, turn: 0 },
];

function drawScene(canvas, { shape, colour, ground, at, radius, turn }) {
  const side = canvas.width, draw = canvas.getContext("2d");
  const gradient = draw.createLinearGradient(0, 0, side, side);
  ground.forEach((stop, place) => gradient.addColorStop(place, stop));
  draw.fillStyle = gradient;
  draw.fillRect(0, 0, side, side);
  draw.translate(at[0] * side, at[1] * side);
  draw.rotate(turn);
  draw.scale(radius * side, radius * side);
  draw.beginPath();
  SHAPES[shape](draw);
  draw.fillStyle = colour;
  draw.fill();
}

function showExamples() {
  for (const scene of SCENES) {
    const button = make("button"), canvas = make("canvas");
    canvas.width = canvas.height = 224;
    drawScene(canvas, scene);
    button.type = "button";
    button.title = scene.shape;
    button.setAttribute("aria-label", `Example: ${scene.shape}`);
    button.append(canvas);
    button.addEventListener("click", () => takeCanvas(canvas, `${scene.shape}.png`, "image/png"));
    $("examples").append(button);
  }
}

// Classes

const TOP_K = 5;

function predictParams() {
  return { model: state.model.name, top_k: TOP_K };
}

/** Asks for the classes, then for the explanation. The old answers stay until then, but pale. */
async function predict() {
  const { file, note } = state.picture;
  clearError();
  stop("explain");
  say(note);
  $("figure").setAttribute("aria-busy", "true");
  const done = !can("predict") || await run("predict", $("classes"), async (signal) => {
    say(`${note}${state.model.name} looks at the picture …`);
    const { answer, elapsed } = await ask("predict", { params: predictParams(), picture: file, signal });
    const [result] = answer.results ?? [];
    const answers = checked(result);
    showClasses(answers);
    showTiming({ ...answer.timing_ms, "round trip": elapsed });
    const first = `${className(answers[0])}, ${amount(answers[0])}.`;
    say(result.values ? `${note}Answer: ${first}` : `${note}Best class: ${first}`);
  }, predict);
  if (done) await explain();
  if (done === false) clearAnswers();
}

/** The classes of a result, or the values of a regression. Refuses those without numbers. */
function checked(result) {
  const answers = result?.predictions ?? result?.values;
  if (!answers?.length) throw new Error("The server's answer has no classes.");
  if (!answers.every(({ prob, value }) => Number.isFinite(value ?? prob))) {
    throw new Error("The server's answer has values that are not numbers.");
  }
  return answers;
}

/** Removes all answers: they belong to another picture. */
function clearAnswers() {
  $("no-classes").hidden = false;
  $("classes-body").hidden = true;
  $("figure").removeAttribute("aria-busy");
  clearFigure();
}

function showClasses(predictions) {
  state.regression = predictions[0].value !== undefined;
  $("bars").replaceChildren(...predictions.map(classRow));
  $("no-classes").hidden = true;
  $("classes-body").hidden = false;
  const options = predictions.map((class_) => new Option(className(class_), class_.index));
  $("target").replaceChildren(new Option("the best one", ""), ...options);
}

/** A row of the table: a name, and a bar with a percentage. The value of a regression has no bar. */
function classRow(class_) {
  const row = make("tr"), name = make("th", "", className(class_)), cell = make("td");
  const bar = make("div", "bar"), track = make("div"), fill = make("div", "fill");
  name.scope = "row";
  if (class_.value === undefined) {
    track.className = "track";
    track.setAttribute("aria-hidden", "true");
    fill.style.width = `${100 * Math.min(Math.max(class_.prob, 0), 1)}%`;
    track.append(fill);
  }
  bar.append(track, make("span", "number", amount(class_)));
  cell.append(bar);
  row.append(name, cell);
  return row;
}

function showTiming(timing) {
  const parts = ["decode", "queue", "compute", "round trip"].filter((name) => Number.isFinite(timing[name]));
  $("timing").replaceChildren(...parts.map((name) => {
    const part = make("div");
    part.append(make("dt", "", name), make("dd", "", duration(timing[name])));
    return part;
  }));
}

// Explanations

/** What a method shows, and what it needs: attention, a class, a place. Signed ones have numbers against a class. */
const METHODS = {
  attention: { label: "Attention", note: "Where each layer and head looks.", attention: true },
  rollout: { label: "Attention rollout", note: "Attention followed through all layers.", attention: true },
  relevance: {
    label: "Relevance",
    note: "Attention through all layers, weighted by gradients of a class.",
    attention: true,
    target: true,
  },
  grad_cam: {
    label: "Grad-CAM",
    note: "Feature maps of the last block, weighted by gradients of a class.",
    target: true,
  },
  integrated_gradients: {
    label: "Integrated gradients",
    note: "Pixels that speak for a class (red) and against it (blue). Takes longer.",
    target: true,
    signed: true,
  },
  occlusion: {
    label: "Occlusion",
    note: "What a class loses (red) or gains (blue) when a part is hidden. Takes longer.",
    target: true,
    signed: true,
  },
  similarity: { label: "Similarity", note: "How much other places are like one, for the model.", place: true },
};

function method() {
  return METHODS[$("method").value];
}

/** Lists the methods that the model has. The first is the default: attention, else Grad-CAM. */
function fillMethods() {
  const before = $("method").value;
  const fits = ({ attention, target }) => (!attention || state.model.has_attention) && (!target || can("predict"));
  const names = Object.keys(METHODS).filter((name) => fits(METHODS[name]));
  $("method").replaceChildren(...names.map((name) => new Option(METHODS[name].label, name)));
  $("method").value = names.includes(before) ? before : names[0];
  showMethod();
}

function showMethod() {
  const { note, target, place } = method();
  $("method-note").textContent = note;
  $("target-field").hidden = !target;
  $("patch-field").hidden = !place;
  $("overlay").classList.toggle("pick", Boolean(place));
}

function explainParams() {
  const { target, place } = method();
  const [row, column] = (place && chosenPlace()) || [];
  const wanted = target ? $("target").value : "";
  return { model: state.model.name, method: $("method").value, target: wanted || undefined, row, column };
}

/** Row and column from 0 of the place in the fields, which count from 1. Undefined for the middle. */
function chosenPlace() {
  const [row, column] = [$("row").value, $("column").value];
  return row && column ? [row - 1, column - 1] : undefined;
}

async function explain() {
  $("figure").removeAttribute("aria-busy");
  if (!can("explain") || !state.picture) return;
  const name = $("method").value;
  clearError();
  $("caption").textContent = `${method().label} …`;
  const done = await run("explain", $("figure"), async (signal) => {
    const { answer } = await ask("explain", { params: explainParams(), picture: state.picture.file, signal });
    checkMap(answer.map);
    for (const { grid, heads } of answer.layers ?? []) {
      if (!heads?.length) throw new Error("The server's attention has a layer without heads.");
      heads.forEach((values) => checkMap({ grid, values }));
    }
    const image = await loadImage(answer.picture);
    signal.throwIfAborted();
    showExplanation({ ...answer, image, method: name });
  }, explain);
  if (done === false) clearFigure();
}

/** Refuses a map that does not fill its grid, so that no wrong one is drawn. */
function checkMap(map) {
  const [rows, columns] = map?.grid ?? [0, 0];
  if (!map || map.values.length !== rows * columns) throw new Error("The server's map does not fill its grid.");
  if (!map.values.every(Number.isFinite)) throw new Error("The server's map has values that are not numbers.");
}

async function loadImage(source) {
  if (!source?.startsWith("data:image/")) throw new Error("The server's explanation has no picture.");
  const image = new Image();
  image.src = source;
  try {
    await image.decode();
  } catch {
    throw new Error("The picture of the server's explanation cannot be read.");
  }
  return image;
}

function clearFigure() {
  state.explanation = undefined;
  const canvas = $("overlay");
  canvas.width = canvas.height = 1;
  canvas.setAttribute("aria-label", "No explanation yet");
  $("scale").hidden = true;
  $("caption").textContent = "";
  $("layer-field").hidden = $("head-field").hidden = true;
}

function showExplanation(answer) {
  state.explanation = answer;
  const layers = answer.layers ?? [], [rows, columns] = answer.map.grid;
  $("layer-field").hidden = $("head-field").hidden = layers.length === 0;
  if (layers.length) {
    const chosen = $("layer").dataset.chosen || layers.length;
    $("layer").max = layers.length;
    $("layer").value = chosen;
  }
  const { label, place } = METHODS[answer.method], { target } = answer;
  if (place) {
    $("row").max = rows;
    $("column").max = columns;
  }
  const prob = target && !state.regression ? ` (${percent(target.prob)})` : "";
  const what = target ? `${label} for ${className(target)}${prob}` : label;
  $("caption").textContent = `${what}, on what the model sees: ${answer.width} × ${answer.height} pixels`;
  drawExplanation();
}

/** The map that the sliders choose. */
function chosenMap() {
  const { layers, map } = state.explanation;
  if (!layers?.length) return map;
  const { grid, heads } = layers[$("layer").value - 1];
  const head = Number($("head").value);
  return { grid, values: head ? heads[head - 1] : mean(heads) };
}

function mean(maps) {
  return maps[0].map((_, at) => maps.reduce((sum, map) => sum + map[at], 0) / maps.length);
}

/** Writes what a slider stands at beside it, for eyes and for screen readers. */
function nameSlider(name, text) {
  $(`${name}-name`).textContent = text;
  $(name).setAttribute("aria-valuetext", text);
}

function nameSliders() {
  nameSlider("strength", `${$("strength").value} %`);
  const layers = state.explanation?.layers ?? [];
  if (!layers.length) return "";
  const at = Number($("layer").value), { name, heads } = layers[at - 1];
  $("head").max = heads.length;
  const head = Number($("head").value);
  nameSlider("layer", `${at} of ${layers.length}: ${name}`);
  nameSlider("head", head ? `${head} of ${heads.length}` : `mean of ${heads.length}`);
  return `, layer ${at} of ${layers.length}, ${head ? `head ${head}` : "mean of all heads"}`;
}

/** Draws the explanation as the sliders stand. */
function drawExplanation() {
  const place = nameSliders();
  if (!state.explanation) return;
  const { image, method: name } = state.explanation, { signed, place: picks } = METHODS[name];
  const map = chosenMap(), scale = scaleFor(map.values, signed);
  drawHeat($("overlay"), image, map, scale, $("strength").value / 100);
  if (picks && chosenPlace()) markCell($("overlay"), map.grid, chosenPlace());
  drawScale(scale);
  $("overlay").setAttribute("aria-label", describe(METHODS[name].label + place, map));
}

/** A map in words: where it is strongest. */
function describe(title, { grid: [rows, columns], values }) {
  const most = values.reduce((best, value, at) => (value > values[best] ? at : best), 0);
  const [row, column] = [Math.floor(most / columns) + 1, (most % columns) + 1];
  return `${title}. Strongest in row ${row} of ${rows}, column ${column} of ${columns}.`;
}

// Colours of maps

/** Inferno in 16 equal steps, from little to much. */
const INFERNO = ["#000004", "#0c0826", "#240c4f", "#420a68", "#5d126e", "#781c6d", "#932667", "#ae305c",
  "#c73e4c", "#dd513a", "#ed6925", "#f8850f", "#fca50a", "#fac62d", "#f2e661", "#fcffa4"];

/** Blue for negative numbers, pale for zero, red for positive ones. */
const SIGNED = ["#053061", "#2265a3", "#4b94c4", "#8fc2dd", "#cde3ee", "#f2efee",
  "#fbd7c4", "#f1a385", "#d55f50", "#ac202f", "#67001f"];

function rgb(hex) {
  return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
}

/** 256 colours between the stops. */
function table(stops) {
  const colours = stops.map(rgb);
  return Array.from({ length: 256 }, (_, at) => {
    const place = (at / 255) * (colours.length - 1), low = Math.min(Math.floor(place), colours.length - 2);
    return colours[low].map((level, channel) => level + (colours[low + 1][channel] - level) * (place - low));
  });
}

const INFERNO_TABLE = table(INFERNO);
const SIGNED_TABLE = table(SIGNED);

/** Scales of maps that were drawn: sorting the numbers of all pixels is slow. */
const scales = new WeakMap();

/** The scale of a map, computed once. */
function scaleFor(values, signed) {
  if (!scales.has(values)) scales.set(values, scaleOf(values, signed));
  return scales.get(values);
}

/** The colours of a map and the numbers at their ends. Of many numbers, the largest of 200 is left out. */
function scaleOf(values, signed) {
  const least = values.reduce((a, b) => Math.min(a, b)), most = values.reduce((a, b) => Math.max(a, b));
  const sizes = values.map(Math.abs).sort((a, b) => a - b);
  const large = sizes[Math.floor(((sizes.length - 1) * 199) / 200)];
  if (signed) return { colours: SIGNED_TABLE, low: -large, high: large, signed };
  return { colours: INFERNO_TABLE, low: least, high: values.length < 2000 ? most : large, signed };
}

/** Where a number lies on the scale, from 0 to 1. */
function share(value, { low, high }) {
  return high > low ? Math.min(Math.max((value - low) / (high - low), 0), 1) : 0;
}

/** The two cells between whose centres a position lies, and its way from the first to the second. */
function between(position, cells) {
  const place = Math.min(Math.max(position * cells - 0.5, 0), cells - 1), low = Math.floor(place);
  return [low, Math.min(low + 1, cells - 1), place - low];
}

/** Draws the picture, and the map over it. The stronger the map, the greyer the picture below. */
function drawHeat(canvas, image, { grid: [rows, columns], values }, scale, strength) {
  const draw = sizedFor(canvas, image);
  draw.drawImage(image, 0, 0, canvas.width, canvas.height);
  const pixels = draw.getImageData(0, 0, canvas.width, canvas.height), { data } = pixels;
  const across = Array.from({ length: canvas.width }, (_, x) => between((x + 0.5) / canvas.width, columns));
  for (let y = 0, at = 0; y < canvas.height; y += 1) {
    const [top, bottom, down] = between((y + 0.5) / canvas.height, rows);
    for (let x = 0; x < canvas.width; x += 1, at += 4) {
      const [left, right, along] = across[x];
      const upper = values[top * columns + left] * (1 - along) + values[top * columns + right] * along;
      const lower = values[bottom * columns + left] * (1 - along) + values[bottom * columns + right] * along;
      paint(data, at, share(upper * (1 - down) + lower * down, scale), scale, strength);
    }
  }
  draw.putImageData(pixels, 0, 0);
}

/** Mixes a pixel with the colour of a share. Where a signed map is zero, the picture stays, but pale. */
function paint(data, at, part, { colours, signed }, strength) {
  const colour = colours[Math.round(255 * part)];
  const light = 0.299 * data[at] + 0.587 * data[at + 1] + 0.114 * data[at + 2];
  const grey = signed ? 150 + 0.4 * light : light;
  const weight = signed ? strength * Math.sqrt(Math.abs(2 * part - 1)) : strength;
  for (let channel = 0; channel < 3; channel += 1) {
    const below = data[at + channel] * (1 - strength) + grey * strength;
    data[at + channel] = below * (1 - weight) + colour[channel] * weight;
  }
}

/** Gives a canvas a size to look at. Small pictures keep square pixels. */
function sizedFor(canvas, { naturalWidth, naturalHeight }) {
  const side = 448, longer = Math.max(naturalWidth, naturalHeight), small = longer * 3 <= side;
  const factor = small ? Math.floor(side / longer) : side / longer;
  canvas.width = Math.max(Math.round(naturalWidth * factor), 1);
  canvas.height = Math.max(Math.round(naturalHeight * factor), 1);
  const draw = canvas.getContext("2d", { willReadFrequently: true });
  draw.imageSmoothingEnabled = !small;
  return draw;
}

/** A frame around a cell, dark and light, so that it shows on every ground. */
function markCell(canvas, [rows, columns], [row, column]) {
  const draw = canvas.getContext("2d"), width = canvas.width / columns, height = canvas.height / rows;
  for (const [line, colour] of [[5, "#000000"], [2, "#ffffff"]]) {
    draw.lineWidth = line;
    draw.strokeStyle = colour;
    draw.strokeRect(column * width, row * height, width, height);
  }
}

function drawScale(scale) {
  const canvas = $("scale-bar"), draw = canvas.getContext("2d");
  scale.colours.forEach((colour, x) => {
    draw.fillStyle = `rgb(${colour.map(Math.round).join(" ")})`;
    draw.fillRect(x, 0, 1, canvas.height);
  });
  $("scale-low").textContent = brief(scale.low);
  $("scale-high").textContent = brief(scale.high);
  $("scale").hidden = false;
}

/** A number within a field's range. */
function clampField(field) {
  const most = field.max === "" ? Infinity : Number(field.max);
  if (field.value !== "") field.value = Math.min(Math.max(Math.round(Number(field.value)), 1), most);
}

/** Asks for the place in the fields. A field that is empty becomes the middle. */
function explainPlace() {
  const grid = METHODS[state.explanation?.method]?.place && state.explanation.map.grid;
  const fields = [$("row"), $("column")];
  fields.forEach(clampField);
  const empty = fields.filter(({ value }) => value === "").length;
  if (empty === 1) {
    if (!grid) return;
    fields.forEach((field, axis) => { field.value ||= Math.floor(grid[axis] / 2) + 1; });
  }
  explain();
}

function watchExplanation() {
  $("method").addEventListener("change", () => { showMethod(); explain(); });
  $("target").addEventListener("change", explain);
  for (const name of ["row", "column"]) $(name).addEventListener("change", explainPlace);
  for (const name of ["layer", "head", "strength"]) $(name).addEventListener("input", drawExplanation);
  $("layer").addEventListener("input", ({ target }) => { target.dataset.chosen = target.value; });
  $("overlay").addEventListener("click", ({ offsetX, offsetY, target }) => {
    const { method: name, map } = state.explanation ?? {};
    if (!METHODS[name]?.place || !method().place) return;
    $("row").value = Math.floor((offsetY / target.clientHeight) * map.grid[0]) + 1;
    $("column").value = Math.floor((offsetX / target.clientWidth) * map.grid[1]) + 1;
    explainPlace();
  });
  nameSliders();
}

// Commands

/** A text as one word of a shell. */
function quoted(text) {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

/** A request as a curl command. The key itself is never in it. */
function curl(path, params, options = []) {
  const { file } = state.picture;
  const key = $("key").value.trim() ? [`-H "Authorization: Bearer $VITRUM_API_KEY"`] : [];
  const body = [`-H ${quoted(`Content-Type: ${mediaType(file)}`)}`, `--data-binary ${quoted(`@${file.name}`)}`];
  return ["curl -sS", ...key, ...options, ...body, quoted(address(path, params).href)].join(" \\\n  ");
}

async function copy(command) {
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

function watchCommands() {
  $("copy-predict").addEventListener("click", () => copy(curl("predict", predictParams())));
  $("copy-explain").addEventListener("click", () => {
    copy(curl("explain", explainParams(), [`-H ${quoted("Accept: image/png")}`, "-o explanation.png"]));
  });
}

// The key

const KEY = "vitrum-api-key";

/** Keeps the key for this tab alone. Without storage it lasts until the page is left. */
function watchKey() {
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
    loadModels();
  });
}

$("model").addEventListener("change", ({ target }) => {
  chooseModel(state.models.find(({ name }) => name === target.value));
});
watchPictures();
watchCamera();
showExamples();
watchExplanation();
watchCommands();
watchKey();
loadModels();
