// Maps in colours over a picture.

import { $, brief } from "./page.js";

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
export function scaleFor(values, signed) {
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
export function drawHeat(canvas, image, { grid: [rows, columns], values }, scale, strength) {
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
export function markCell(canvas, [rows, columns], [row, column]) {
  const draw = canvas.getContext("2d"), width = canvas.width / columns, height = canvas.height / rows;
  for (const [line, colour] of [[5, "#000000"], [2, "#ffffff"]]) {
    draw.lineWidth = line;
    draw.strokeStyle = colour;
    draw.strokeRect(column * width, row * height, width, height);
  }
}

export function drawScale(scale) {
  const canvas = $("scale-bar"), draw = canvas.getContext("2d");
  scale.colours.forEach((colour, x) => {
    draw.fillStyle = `rgb(${colour.map(Math.round).join(" ")})`;
    draw.fillRect(x, 0, 1, canvas.height);
  });
  $("scale-low").textContent = brief(scale.low);
  $("scale-high").textContent = brief(scale.high);
  $("scale").hidden = false;
}
