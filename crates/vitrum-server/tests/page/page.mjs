// Drives the server's page in a browser: node page.mjs URL PICTURE FOLDER
//
// Uploads the picture through the file input and by a drop, reads the answers, moves sliders by keyboard, fills in masked
// patches if the server has a model for it, and writes screenshots into the folder. Any console error, breach of the Content-Security-Policy or request to another host is
// a failure. CHROMIUM names another browser than /usr/bin/chromium. Exit codes: 0 passed, 1 failed, 2 usage.

import assert from "node:assert/strict";
import { mkdir, readFile } from "node:fs/promises";
import { basename, extname, join } from "node:path";
import { chromium } from "playwright-core";

const [url, picture, folder] = process.argv.slice(2);
if (!url || !picture || !folder) {
  console.error("usage: node page.mjs URL PICTURE FOLDER");
  process.exit(2);
}

const WAIT = 30_000;
const TYPES = { ".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp" };

/** What must not happen, as it happens. */
function watch(page, faults) {
  const host = new URL(url).host;
  page.on("console", (message) => message.type() === "error" && faults.push(`console: ${message.text()}`));
  page.on("pageerror", (error) => faults.push(`exception: ${error.message}`));
  page.on("request", (request) => {
    const asked = new URL(request.url());
    if (/^(https?|wss?):$/.test(asked.protocol) && asked.host !== host) faults.push(`request to ${asked.host}`);
  });
  return page.addInitScript(() => {
    document.addEventListener("securitypolicyviolation", (event) => {
      console.error(`policy: ${event.violatedDirective} forbids ${event.blockedURI}`);
    });
  });
}

/** Does what makes the page ask, and waits until the classes are there. */
async function classified(page, act) {
  const asked = (response) => new URL(response.url()).pathname.endsWith("/predict");
  const [response] = await Promise.all([page.waitForResponse(asked, { timeout: WAIT }), act()]);
  assert.equal(response.status(), 200, `the server answers /predict with ${response.status()}`);
  await page.locator("#classes:not([aria-busy]) #bars tr").first().waitFor({ timeout: WAIT });
  return page.locator("#bars tr").evaluateAll((rows) => rows.map((row) => ({
    name: row.querySelector("th").textContent,
    prob: row.querySelector(".number").textContent,
    width: row.querySelector(".fill").style.width,
  })));
}

function checkClasses(classes) {
  assert.ok(classes.length >= 1 && classes.length <= 5, `${classes.length} classes`);
  assert.notEqual(classes[0].name, "", "the first class has a name");
  assert.match(classes[0].prob, /^[<>]? ?\d{1,3}\.\d %$/, `a percentage: ${classes[0].prob}`);
  assert.match(classes[0].width, /^\d+(\.\d+)?%$/, `a bar: ${classes[0].width}`);
}

/** A drop of the file, as the browser makes one. */
async function drop(page, file, bytes) {
  const transfer = await page.evaluateHandle(({ name, type, base64 }) => {
    const data = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0)), given = new DataTransfer();
    given.items.add(new File([data], name, { type }));
    return given;
  }, { name: basename(file), type: TYPES[extname(file).toLowerCase()] ?? "", base64: bytes.toString("base64") });
  for (const kind of ["dragover", "drop"]) await page.dispatchEvent("#drop", kind, { dataTransfer: transfer });
}

/** The pixels of the explanation, as text. */
function overlay(page) {
  return page.locator("#overlay").evaluate((canvas) => canvas.toDataURL());
}

async function explained(page) {
  await page.locator("#figure:not([aria-busy]) #scale:not([hidden])").waitFor({ timeout: WAIT });
  const filled = await page.locator("#overlay").evaluate((canvas) => canvas.width * canvas.height);
  assert.ok(filled > 1, "the explanation is drawn");
}

/** Moves the layer's slider to the first layer by keyboard. Models without attention have none. */
async function moveLayer(page) {
  const layer = page.locator("#layer");
  if (!(await layer.isVisible()) || (await layer.getAttribute("max")) === "1") {
    console.log("no layers to choose: the slider is not tried");
    return;
  }
  const [before, last] = [await overlay(page), await layer.inputValue()];
  await layer.focus();
  await page.keyboard.press("ArrowLeft");
  assert.equal(Number(await layer.inputValue()), Number(last) - 1, "an arrow key moves the slider by a layer");
  await page.keyboard.press("Home");
  assert.equal(await layer.inputValue(), "1", "the first layer");
  assert.match(await layer.getAttribute("aria-valuetext"), /^1 of \d+/, "the slider tells its layer");
  assert.notEqual(await overlay(page), before, "another layer gives another map");
}

/** The name of a model that fills in masked patches, if the server has one. */
async function reconstructing(page) {
  const models = await page.evaluate(async () => (await (await fetch("v1/models")).json()).models);
  return models.find(({ can }) => can.includes("reconstruct"))?.name;
}

/** Does what makes the page ask for a reconstruction, and waits for its pictures. */
async function reconstructed(page, act) {
  const asked = (response) => new URL(response.url()).pathname.endsWith("/reconstruct");
  const [response] = await Promise.all([page.waitForResponse(asked, { timeout: WAIT }), act()]);
  assert.equal(response.status(), 200, `the server answers /reconstruct with ${response.status()}`);
  await page.locator("#views:not([aria-busy]) img").nth(3).waitFor({ timeout: WAIT });
  const pictures = await page.locator("#views img").evaluateAll((images) => images.map(({ src }) => src));
  assert.equal(new Set(pictures).size, 4, "four pictures, all different");
  return pictures;
}

/** Masks fewer patches, and others, by keyboard. */
async function moveMask(page, name) {
  const first = await reconstructed(page, () => page.selectOption("#model", name));
  const ratio = page.locator("#mask-ratio"), before = Number(await ratio.inputValue());
  await ratio.focus();
  const fewer = await reconstructed(page, () => page.keyboard.press("ArrowLeft"));
  assert.equal(Number(await ratio.inputValue()), before - 5, "an arrow key moves the slider by five hundredths");
  assert.equal(await ratio.getAttribute("aria-valuetext"), `${before - 5} %`, "the slider tells its share");
  assert.equal(fewer[0], first[0], "the picture stays");
  assert.notEqual(fewer[1], first[1], "another share gives another mask");
  await page.locator("#other-mask").focus();
  const other = await reconstructed(page, () => page.keyboard.press("Enter"));
  assert.notEqual(other[1], fewer[1], "another seed gives another mask");
  assert.match(await page.locator("#views-note").textContent(), /^\d+ of \d+ patches are masked\./);
}

/** Nothing is wider than the window. */
async function checkWidth(page, width) {
  await page.setViewportSize({ width, height: 900 });
  const needed = await page.evaluate(() => document.documentElement.scrollWidth);
  assert.ok(needed <= width, `a window of ${width} pixels scrolls sideways: the page needs ${needed}`);
}

/** A picture of the whole page. The window has its size, so that all of it is painted before. */
async function photograph(page, width, name) {
  await page.setViewportSize({ width, height: 900 });
  const height = await page.evaluate(() => document.documentElement.scrollHeight);
  await page.setViewportSize({ width, height });
  await page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
  await page.screenshot({ path: join(folder, `${name}.png`) });
}

/** Pictures of the page: light, dark and narrow. Their names begin with `what`. */
async function screenshots(page, what = "") {
  for (const colorScheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme });
    await photograph(page, 1280, `${what}${colorScheme}`);
  }
  await page.emulateMedia({ colorScheme: "light" });
  await checkWidth(page, 320);
  await checkWidth(page, 360);
  await photograph(page, 360, `${what}narrow`);
}

async function test(page, faults) {
  await watch(page, faults);
  await page.goto(url, { waitUntil: "networkidle", timeout: WAIT });
  assert.equal(await page.title(), "vitrum");
  const bytes = await readFile(picture);

  const chosen = await classified(page, () => page.setInputFiles("#file", picture));
  checkClasses(chosen);
  await explained(page);
  await moveLayer(page);

  const dropped = await classified(page, () => drop(page, picture, bytes));
  checkClasses(dropped);
  assert.deepEqual(dropped.map(({ name }) => name), chosen.map(({ name }) => name), "a drop gives the same classes");
  await explained(page);

  assert.equal(await page.locator("#error").textContent(), "", "the page shows no error");
  await screenshots(page);

  const name = await reconstructing(page);
  if (name) {
    await moveMask(page, name);
    assert.equal(await page.locator("#error").textContent(), "", "the page shows no error");
    await screenshots(page, "reconstruction-");
  } else {
    console.log("no model fills in masked patches: its view is not tried");
  }
  assert.deepEqual(faults, [], "no console error, no breach of the policy, no other host");
  console.log(`passed: ${chosen[0].name}, ${chosen[0].prob}`);
}

await mkdir(folder, { recursive: true });
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync"],
});
const faults = [];
try {
  await test(await browser.newPage(), faults);
} catch (error) {
  console.error([`failed: ${error.message}`, ...faults].join("\n"));
  process.exitCode = 1;
} finally {
  await browser.close();
}
