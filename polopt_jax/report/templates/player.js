"use strict";
// Plays the episodes of a page: every element of class "player" holds one, as JSON. report/_stages.py draws the same.
(() => {
  const VIEW = 35 * Math.PI / 180, TILES = 12, ROUND = 8, MISSING = 65535, SLOWEST_FRAME = 0.1, MARGIN = 54;

  // Numbers [.., K] packed by report/_players.py: 16 bits each, from the least to the most of their place in K.
  function unpack(packed) {
    const bytes = Uint8Array.from(atob(packed.data), (char) => char.charCodeAt(0));
    const view = new DataView(bytes.buffer), width = packed.low.length;
    return Float32Array.from({ length: bytes.length / 2 }, (_, i) => {
      const code = view.getUint16(2 * i, true);
      return code === MISSING ? NaN : packed.low[i % width] + code * packed.step[i % width];
    });
  }

  function projection(camera, target, width, height) {
    const { azimuth: a, elevation: e, distance } = camera;
    const out = [Math.cos(e) * Math.cos(a), Math.cos(e) * Math.sin(a), Math.sin(e)];
    const right = [-Math.sin(a), Math.cos(a), 0];
    const up = [-Math.sin(e) * Math.cos(a), -Math.sin(e) * Math.sin(a), Math.cos(e)];
    const focal = Math.min(width, height) / (2 * Math.tan(VIEW / 2));
    return (p) => {
      const d = [p[0] - target[0], p[1] - target[1], p[2] - target[2]];
      const along = (axis) => d[0] * axis[0] + d[1] * axis[1] + d[2] * axis[2];
      const depth = distance - along(out), scale = focal / (Math.abs(depth) < 1e-6 ? 1e-6 : depth);
      return { x: width / 2 + scale * along(right), y: height / 2 - scale * along(up), scale };
    };
  }

  const channels = (color) => [1, 3, 5].map((i) => parseInt(color.slice(i, i + 2), 16));
  function mix(color, other, share) {
    const b = channels(other);
    return `rgb(${channels(color).map((x, i) => Math.round((1 - share) * x + share * b[i])).join()})`;
  }

  function fill(pen, corners, color) {
    if (corners.some((corner) => !(corner.scale > 0))) return;
    pen.fillStyle = color;
    pen.beginPath();
    corners.forEach((corner) => pen.lineTo(corner.x, corner.y));
    pen.fill();
  }

  function bar(pen, from, to, shift, width, color) {
    pen.strokeStyle = color;
    pen.lineWidth = width;
    pen.beginPath();
    pen.moveTo(from.x + shift.x, from.y + shift.y);
    pen.lineTo(to.x + shift.x + 0.01, to.y + shift.y);
    pen.stroke();
  }

  function drawGround(pen, place, stage, target, colors) {
    const middle = [0, 1].map((k) => Math.round(target[k] / stage.tile));
    for (let i = -TILES; i < TILES; i++) for (let j = -TILES; j < TILES; j++) {
      const fade = 1 - Math.hypot(i + 0.5, j + 0.5) / TILES, [m, n] = [i + middle[0], j + middle[1]];
      if (fade <= 0 || (m + n) % 2) continue;
      const corners = [[0, 0], [1, 0], [1, 1], [0, 1]].map(
        ([k, l]) => place([(m + k) * stage.tile, (n + l) * stage.tile, stage.ground]));
      fill(pen, corners, mix(colors.paper, colors.ground, Math.min(1, 2 * fade)));
    }
  }

  function shadow(body, ground) {
    const [p, q] = body.ends, along = Math.atan2(q[1] - p[1], q[0] - p[0]), corners = [];
    for (const [end, side] of [[q, 1], [p, -1]]) for (let k = 0; k <= ROUND; k++) {
      const turn = along - Math.PI / 2 + Math.PI * k / ROUND, r = side * body.radius;
      corners.push([end[0] + r * Math.cos(turn), end[1] + r * Math.sin(turn), ground]);
    }
    return corners;
  }

  function drawBodies(pen, place, stage, bodies, colors) {
    const seen = bodies.map((body) => ({ ...body, at: body.ends.map(place) }))
      .filter((body) => body.at.every((end) => end.scale > 0));
    const nearness = (body) => body.at[0].scale + body.at[1].scale;
    seen.sort((a, b) => a.moves - b.moves || nearness(a) - nearness(b));
    if (stage.ground !== null) for (const body of seen)
      fill(pen, shadow(body, stage.ground).map(place), colors.shadow);
    pen.lineCap = "round";
    for (const { at: [from, to], radius, color } of seen) {
      const width = radius * (from.scale + to.scale);
      bar(pen, from, to, { x: 0, y: 0 }, width + 2, mix(color, "#101112", 0.55));
      bar(pen, from, to, { x: 0, y: 0 }, width, color);
      bar(pen, from, to, { x: -0.1 * width, y: -0.2 * width }, 0.34 * width, mix(color, "#ffffff", 0.4));
    }
  }

  // A canvas as sharp as the screen; null while it is not shown.
  function sharpPen(canvas) {
    const { width, height } = canvas.getBoundingClientRect(), ratio = window.devicePixelRatio || 1;
    if (!width || !height) return null;
    [canvas.width, canvas.height] = [Math.round(width * ratio), Math.round(height * ratio)];
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    return { pen, width, height };
  }

  function makeStage(root, stage) {
    const canvas = root.querySelector(".stage canvas"), ends = unpack(stage.ends), targets = unpack(stage.target);
    const count = stage.radius.length, first = { azimuth: stage.azimuth, elevation: stage.elevation };
    const camera = { ...first, distance: stage.distance };
    const between = (numbers, i, j, share) => (1 - share) * numbers[i] + share * numbers[j];
    const point = (numbers, start, width, now) => [0, 1, 2].map((k) =>
      between(numbers, now.frame * width + start + k, now.next * width + start + k, now.share));
    let now = { frame: 0, next: 0, share: 0 };
    function draw() {
      const sharp = sharpPen(canvas);
      if (!sharp) return;
      const style = getComputedStyle(root), color = (name) => style.getPropertyValue(name).trim();
      const colors = { paper: color("--paper"), ground: color("--ground"), shadow: color("--shadow") };
      const target = point(targets, 0, 3, now);
      const place = projection(camera, target, sharp.width, sharp.height);
      if (stage.ground !== null) drawGround(sharp.pen, place, stage, target, colors);
      const bodies = stage.radius.map((radius, c) => ({
        radius, color: stage.color[c], moves: stage.moves[c],
        ends: [0, 3].map((start) => point(ends, 6 * c + start, 6 * count, now)),
      }));
      drawBodies(sharp.pen, place, stage, bodies, colors);
    }
    handle(canvas, camera, draw, () => Object.assign(camera, first, { distance: stage.distance }));
    return { show(moment) { now = moment; draw(); }, draw };
  }

  // Drag to turn, two fingers or the wheel to come nearer, arrows and + - on the keyboard, a double click to go back.
  function handle(canvas, camera, draw, back) {
    const fingers = new Map();
    const turn = (x, y) => {
      camera.azimuth -= x;
      camera.elevation = Math.min(1.55, Math.max(-0.2, camera.elevation + y));
      draw();
    };
    const least = camera.distance / 12, most = camera.distance * 8;
    const zoom = (factor) => { camera.distance = Math.min(most, Math.max(least, camera.distance * factor)); draw(); };
    const spread = () => {
      const [p, q] = [...fingers.values()];
      return Math.max(1, Math.hypot(p.x - q.x, p.y - q.y));
    };
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    });
    canvas.addEventListener("pointermove", (event) => {
      const before = fingers.get(event.pointerId);
      if (!before) return;
      const here = { x: event.clientX, y: event.clientY };
      const apart = fingers.size === 2 && spread();
      fingers.set(event.pointerId, here);
      if (fingers.size === 2) zoom(apart / spread());
      else if (fingers.size === 1) turn(0.008 * (here.x - before.x), 0.008 * (here.y - before.y));
    });
    for (const name of ["pointerup", "pointercancel"])
      canvas.addEventListener(name, (event) => fingers.delete(event.pointerId));
    canvas.addEventListener("wheel", (event) => { event.preventDefault(); zoom(Math.exp(0.0015 * event.deltaY)); },
      { passive: false });
    canvas.addEventListener("dblclick", () => { back(); draw(); });
    const keys = { ArrowLeft: () => turn(0.1, 0), ArrowRight: () => turn(-0.1, 0), ArrowUp: () => turn(0, 0.1),
      ArrowDown: () => turn(0, -0.1), "+": () => zoom(0.9), "-": () => zoom(1.1) };
    canvas.addEventListener("keydown", (event) => {
      if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
    });
  }

  const short = (x) => Number.isFinite(x) ? Number(x.toPrecision(3)).toString() : "-";

  // The curves of one track; `show` puts the cursor and the numbers at a frame.
  function makeTrack(figure, track, share, seek) {
    const canvas = figure.querySelector("canvas"), cursor = figure.querySelector("i"), width = track.colors.length;
    const values = unpack(track.values), frames = values.length / width;
    const finite = values.filter(Number.isFinite), output = figure.querySelector("output");
    const low = finite.reduce((a, b) => Math.min(a, b), Infinity), high = finite.reduce((a, b) => Math.max(a, b), -Infinity);
    const spans = track.colors.length > 8 ? [] : track.colors.map((color) => {
      const span = output.appendChild(document.createElement("span"));
      if (width > 1) span.style.color = color;
      return span;
    });
    function draw() {
      const sharp = sharpPen(canvas);
      if (!sharp) return;
      const { pen } = sharp, room = high - low || 1;
      const y = (value) => 4 + (sharp.height - 8) * (high > low ? (high - value) / room : 0.5);
      pen.lineWidth = width > 8 ? 0.8 : 1.5;
      pen.lineJoin = "round";
      track.colors.forEach((color, k) => {
        pen.strokeStyle = color;
        pen.beginPath();
        let drawing = false;
        for (let f = 0; f < frames; f++) {
          const value = values[f * width + k], known = Number.isFinite(value);
          if (known) pen[drawing ? "lineTo" : "moveTo"](MARGIN + share(f) * (sharp.width - MARGIN), y(value));
          drawing = known;
        }
        pen.stroke();
      });
      pen.fillStyle = getComputedStyle(figure).getPropertyValue("--soft");
      pen.font = "11px system-ui, sans-serif";
      pen.textAlign = "right";
      pen.fillText(short(high), MARGIN - 6, 12);
      if (high > low) pen.fillText(short(low), MARGIN - 6, sharp.height - 4);
    }
    const at = (event) => {
      const box = canvas.getBoundingClientRect();
      seek(Math.min(1, Math.max(0, (event.clientX - box.left - MARGIN) / (box.width - MARGIN))));
    };
    canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); at(event); });
    canvas.addEventListener("pointermove", (event) => { if (event.buttons) at(event); });
    return {
      draw,
      show(frame, position) {
        cursor.style.left = `calc(${MARGIN}px + ${position} * (100% - ${MARGIN}px))`;
        spans.forEach((span, k) => { span.textContent = short(values[frame * width + k]); });
        return `${track.title} ${short(values[frame * width])}`;
      },
    };
  }

  function start(root) {
    const data = JSON.parse(root.querySelector("script").textContent);
    const find = (name) => root.querySelector(name);
    const [button, scrubber, speed, clock, hud] = ["button", "input", "select", ".clock", ".hud"].map(find);
    const { steps } = data, last = steps[steps.length - 1];
    let position = 0, playing = false, before = null;
    const seek = (share) => { position = share * last; show(); };
    const tracks = data.tracks.map((track, i) =>
      makeTrack(root.querySelectorAll(".track")[i], track, (f) => last ? steps[f] / last : 0, seek));
    const stage = data.stage && makeStage(root, data.stage);

    function show() {
      let frame = 0;
      for (let above = steps.length - 1; frame < above;) {
        const middle = (frame + above + 1) >> 1;
        if (steps[middle] <= position) frame = middle; else above = middle - 1;
      }
      const next = Math.min(frame + 1, steps.length - 1), gap = steps[next] - steps[frame];
      if (stage) stage.show({ frame, next, share: gap ? (position - steps[frame]) / gap : 0 });
      const said = tracks.map((track) => track.show(frame, last ? position / last : 0));
      if (hud) hud.textContent = said.slice(0, 2).join(" · ");
      scrubber.value = position;
      scrubber.setAttribute("aria-valuetext", `step ${steps[frame]} of ${last}`);
      const seconds = data.timed ? ` · ${(position * data.seconds_per_step).toFixed(2)} s` : "";
      clock.textContent = `step ${steps[frame]} of ${last}${seconds}`;
    }
    function play(wanted) {
      playing = wanted && last > 0;
      if (playing && position >= last) position = 0;
      button.textContent = playing ? "❚❚" : "▶";
      button.setAttribute("aria-label", playing ? "Pause" : "Play");
      before = null;
      if (playing) requestAnimationFrame(tick);
    }
    function tick(time) {
      if (!playing) return;
      const passed = before === null ? 0 : Math.min(SLOWEST_FRAME, (time - before) / 1000);
      before = time;
      position = Math.min(last, position + passed * Number(speed.value) / data.seconds_per_step);
      show();
      if (position >= last) play(false); else requestAnimationFrame(tick);
    }
    function redraw() {
      if (stage) stage.draw();
      tracks.forEach((track) => track.draw());
    }
    button.addEventListener("click", () => play(!playing));
    scrubber.addEventListener("input", () => { position = Number(scrubber.value); show(); });
    root.addEventListener("keydown", (event) => {
      if (event.key === " " && event.target.tagName !== "BUTTON") { event.preventDefault(); play(!playing); }
    });
    new ResizeObserver(redraw).observe(root);
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
    show();
    redraw();
    play(!window.matchMedia("(prefers-reduced-motion: reduce)").matches);
  }

  document.querySelectorAll(".player").forEach(start);
})();
