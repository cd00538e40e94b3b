// Pictures to begin with, drawn by the page.

import { $, make } from "./page.js";
import { takeCanvas } from "./picture.js";

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

export function showExamples() {
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
