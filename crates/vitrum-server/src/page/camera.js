// Pictures from a camera.

import { $, make } from "./page.js";
import { takeCanvas } from "./picture.js";

const CAMERA_WORDS = {
  NotAllowedError: "The browser does not allow the camera. Allow it in the settings of this page.",
  NotFoundError: "There is no camera.",
  NotReadableError: "Another program uses the camera.",
};

export async function watchCamera() {
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
