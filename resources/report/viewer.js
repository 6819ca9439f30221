"use strict";
// Three planes through a cube of CT, PET and two lesion classes, each linked to the others by a cross.
// x runs to the patient's left, y to the back, z to the head; axial is seen from the feet, coronal from the front.
(async () => {
  const scene = JSON.parse(document.getElementById("scene").textContent);
  const packed = Uint8Array.from(atob(document.getElementById("volumes").textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const all = new Uint8Array(await new Response(stream).arrayBuffer());
  const n = scene.voxels, size = n ** 3;
  const [ct, pet, ...classes] = [0, 1, 2, 3].map((i) => all.subarray(i * size, (i + 1) * size));
  const stride = [1, n, n * n];
  const planes = {
    axial: { normal: 2, across: 0, down: 1, flipped: false },
    coronal: { normal: 1, across: 0, down: 2, flipped: true },
    sagittal: { normal: 0, across: 1, down: 2, flipped: true },
  };
  const cross = scene.lesions.length ? [...scene.lesions[0]] : [n >> 1, n >> 1, n >> 1];
  const fade = document.getElementById("fade");

  const hot = new Uint8ClampedArray(256 * 4); // black, red, yellow, white; clear where there is next to nothing
  for (let v = 0; v < 256; v++) {
    const t = v / 255;
    const alpha = Math.min(1, Math.max(0, (t - scene.shown_from) / (1.5 * scene.shown_from)));
    hot.set([t * 2.74 * 255, (t - 0.365) * 2.74 * 255, (t - 0.746) * 3.94 * 255, alpha * 255], v * 4);
  }

  const at = (plane, column, row) => {
    const down = plane.flipped ? n - 1 - row : row;
    return cross[plane.normal] * stride[plane.normal] + column * stride[plane.across] + down * stride[plane.down];
  };

  function paint(plane, color) {
    const slice = new OffscreenCanvas(n, n), context = slice.getContext("2d"), image = context.createImageData(n, n);
    for (let row = 0, to = 0; row < n; row++)
      for (let column = 0; column < n; column++, to += 4) color(image.data, to, at(plane, column, row));
    context.putImageData(image, 0, 0);
    return slice;
  }

  // marching squares at one half: the two crossings of each cell of four voxel centers, or the four of a saddle
  function outline(plane, volume, scale) {
    const path = new Path2D(), values = new Float32Array(n * n);
    for (let r = 0, i = 0; r < n; r++) for (let c = 0; c < n; c++, i++) values[i] = volume[at(plane, c, r)] - 127.5;
    for (let r = 0; r < n - 1; r++)
      for (let c = 0; c < n - 1; c++) {
        const i = r * n + c, inside = (values[i] > 0) + (values[i + 1] > 0) + (values[i + n] > 0) + (values[i + n + 1] > 0);
        if (inside === 0 || inside === 4) continue;
        const corners = [[c, r], [c + 1, r], [c + 1, r + 1], [c, r + 1]].map(([x, y]) => [x, y, values[y * n + x]]);
        const crossings = [];
        for (let i = 0; i < 4; i++) {
          const [x, y, a] = corners[i], [u, v, b] = corners[(i + 1) % 4];
          if (a > 0 !== b > 0) crossings.push([x + ((u - x) * a) / (a - b) + 0.5, y + ((v - y) * a) / (a - b) + 0.5]);
        }
        for (let i = 0; i + 1 < crossings.length; i += 2) {
          path.moveTo(crossings[i][0] * scale, crossings[i][1] * scale);
          path.lineTo(crossings[i + 1][0] * scale, crossings[i + 1][1] * scale);
        }
      }
    return path;
  }

  function draw(name) {
    const plane = planes[name], canvas = plane.canvas, context = canvas.getContext("2d");
    const side = Math.round(canvas.clientWidth * devicePixelRatio);
    if (!side) return;
    canvas.width = canvas.height = side;
    const scale = side / n, pixel = devicePixelRatio;
    context.imageSmoothingQuality = "high";
    context.drawImage(paint(plane, (d, to, i) => { d[to] = d[to + 1] = d[to + 2] = ct[i]; d[to + 3] = 255; }), 0, 0, side, side);
    context.globalAlpha = fade.value / 100;
    context.drawImage(paint(plane, (d, to, i) => { for (let k = 0; k < 4; k++) d[to + k] = hot[pet[i] * 4 + k]; }), 0, 0, side, side);
    context.globalAlpha = 1;
    classes.forEach((volume, i) => {
      const path = outline(plane, volume, scale);
      for (const [color, width] of [["rgba(0,0,0,.65)", 3.2], [scene.colors[i], 1.7]]) {
        context.strokeStyle = color;
        context.lineWidth = width * pixel;
        context.stroke(path);
      }
    });
    const column = (cross[plane.across] + 0.5) * scale;
    const row = ((plane.flipped ? n - 1 - cross[plane.down] : cross[plane.down]) + 0.5) * scale;
    context.strokeStyle = "rgba(255,255,255,.45)";
    context.lineWidth = pixel;
    context.beginPath();
    for (const sign of [-1, 1]) {
      context.moveTo(column + sign * 8 * pixel, row);
      context.lineTo(sign < 0 ? 0 : side, row);
      context.moveTo(column, row + sign * 8 * pixel);
      context.lineTo(column, sign < 0 ? 0 : side);
    }
    context.stroke();
    const bar = 50 / scene.spacing * scale, x = side - bar - 10 * pixel, y = side - 10 * pixel;
    context.fillStyle = "#fff";
    context.fillRect(x, y, bar, 2 * pixel);
    context.font = `${11 * pixel}px system-ui, sans-serif`;
    context.textAlign = "center";
    context.fillText("50 mm", x + bar / 2, y - 4 * pixel);
    const mm = scene.origin[plane.normal] + cross[plane.normal] * scene.spacing;
    plane.position.textContent = `${"xyz"[plane.normal]} ${mm.toFixed(0).replace("-", "\u2212")} mm`;
    plane.slider.value = cross[plane.normal];
  }
  const drawAll = () => Object.keys(planes).forEach(draw);

  function move(axis, to) {
    cross[axis] = Math.min(n - 1, Math.max(0, Math.round(to)));
    drawAll();
  }

  document.documentElement.classList.add("live");
  for (const [name, plane] of Object.entries(planes)) {
    const figure = document.getElementById(name);
    plane.canvas = figure.querySelector("canvas");
    plane.slider = figure.querySelector("input");
    plane.position = figure.querySelector("output");
    plane.slider.addEventListener("input", () => move(plane.normal, +plane.slider.value));
    let turned = 0; // a notch of a wheel is a slice, and so is as much of a pad's many small steps
    plane.canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      turned += event.deltaMode ? 50 * event.deltaY : event.deltaY;
      if (Math.abs(turned) < 50) return;
      move(plane.normal, cross[plane.normal] - Math.sign(turned));
      turned = 0;
    }, { passive: false });
    plane.canvas.addEventListener("keydown", (event) => {
      const step = { ArrowUp: 1, ArrowDown: -1, ArrowRight: 1, ArrowLeft: -1, PageUp: 5, PageDown: -5 }[event.key];
      if (!step) return;
      event.preventDefault();
      move(plane.normal, cross[plane.normal] + step);
    });
    const point = (event) => {
      const box = plane.canvas.getBoundingClientRect();
      const down = ((event.clientY - box.top) / box.height) * n - 0.5;
      cross[plane.across] = Math.min(n - 1, Math.max(0, Math.round(((event.clientX - box.left) / box.width) * n - 0.5)));
      move(plane.down, plane.flipped ? n - 1 - down : down);
    };
    plane.canvas.addEventListener("click", point);
    plane.canvas.addEventListener("pointermove", (event) => { if (event.buttons && event.pointerType === "mouse") point(event); });
  }
  fade.addEventListener("input", drawAll);
  document.querySelectorAll("button[data-lesion]").forEach((button) => button.addEventListener("click", () => {
    cross.splice(0, 3, ...scene.lesions[button.dataset.lesion]);
    drawAll();
    document.getElementById("images").scrollIntoView({ behavior: "smooth", block: "nearest" });
  }));
  new ResizeObserver(drawAll).observe(document.getElementById("axial"));
  drawAll();
})().catch((error) => {
  document.documentElement.classList.remove("live"); // the still pictures stay
  console.warn(`no viewer: ${error}`);
});
