// The page is complete without this script: it only filters the answers and plays the recording.
// Everything that it writes, it writes as text.
"use strict";

(() => {
  const byId = (id) => document.getElementById(id);
  const PAGE = 40; // answers that are shown until more are asked for

  function filterAnswers() {
    const form = byId("filters"), more = byId("more"), status = byId("shown");
    const rows = [...byId("rows").rows];
    const texts = rows.map((row) => row.textContent.toLowerCase());
    const fields = ["run", "state", "split", "category"].map((name) => [name, byId("f-" + name)]).filter(([, f]) => f);
    let limit = PAGE;

    function matches(row, i, words) {
      return fields.every(([name, field]) => !field.value || row.dataset[name] === field.value)
        && words.every((word) => texts[i].includes(word));
    }

    function update() {
      const words = byId("f-text").value.toLowerCase().split(/\s+/).filter(Boolean);
      const found = rows.filter((row, i) => matches(row, i, words));
      const shown = new Set(found.slice(0, limit));
      for (const row of rows) row.hidden = !shown.has(row);
      more.hidden = found.length <= limit;
      more.textContent = `Show all ${found.length}`;
      const states = [...byId("f-state").options].slice(1).map((option) =>
        `${found.filter((row) => row.dataset.state === option.value).length} ${option.textContent}`);
      const first = found.length > limit ? ` The first ${limit} are shown.` : "";
      status.textContent = `${found.length} of ${rows.length} answers: ${states.join("; ")}.${first}`;
    }

    function changed() {
      limit = PAGE;
      update();
    }

    form.hidden = false;
    form.addEventListener("input", changed);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", () => setTimeout(changed));
    more.addEventListener("click", () => {
      const next = rows.filter((row) => !row.hidden).length;
      limit = Infinity;
      update();
      const row = rows.filter((one) => !one.hidden)[next];
      row.tabIndex = -1;
      row.focus({ preventScroll: true }); // the button is gone: reading goes on where the new rows begin
    });
    form.reset();
    changed();
  }

  function playRecording() {
    const film = JSON.parse(byId("film").textContent);
    const lines = [...byId("screen").children], button = byId("play"), seek = byId("seek"), rate = byId("rate");
    const chapters = [...document.querySelectorAll(".chapters button")];
    const shown = new Array(film.height).fill(-1);
    let at = 0, timer = 0, last = 0;

    const clock = (seconds) => `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;

    // the rows at a time: every change up to it, from the start, since a jump may go back
    function rowsAt(time) {
      const rows = new Array(film.height).fill(-1);
      for (const [seconds, changes] of film.frames) {
        if (seconds > time) break;
        for (const [y, row] of changes) rows[y] = row;
      }
      return rows;
    }

    function paint(y, row) {
      const spans = (row < 0 ? [] : film.rows[row]).map(([style, text]) => {
        const span = document.createElement("span");
        span.className = "t" + Number(style);
        span.textContent = text;
        return span;
      });
      lines[y].replaceChildren(...spans);
      shown[y] = row;
    }

    function show(time) {
      at = Math.min(Math.max(time, 0), film.seconds);
      rowsAt(at).forEach((row, y) => { if (row !== shown[y]) paint(y, row); });
      seek.value = at;
      seek.setAttribute("aria-valuetext", `${clock(at)} of ${clock(film.seconds)}`);
      byId("time").textContent = `${clock(at)} / ${clock(film.seconds)}`;
      const current = chapters.filter((one) => Number(one.dataset.time) <= at).pop();
      for (const one of chapters) one.setAttribute("aria-current", String(one === current));
    }

    function tick(now) {
      show(at + (now - last) / 1000 * Number(rate.value));
      last = now;
      if (at >= film.seconds) pause();
      else timer = requestAnimationFrame(tick);
    }

    function play() {
      if (at >= film.seconds) show(0);
      last = performance.now();
      timer = requestAnimationFrame(tick);
      button.textContent = "Pause";
    }

    function pause() {
      cancelAnimationFrame(timer);
      timer = 0;
      button.textContent = "Play";
    }

    const toggle = () => (timer ? pause() : play());

    function pressed(event) {
      if (event.altKey || event.ctrlKey || event.metaKey || event.target === rate) return;
      const moves = { ArrowLeft: -5, ArrowRight: 5, ArrowDown: -5, ArrowUp: 5 };
      if (event.key === " " && event.target.tagName !== "BUTTON") toggle(); // a button answers to the key itself
      else if (event.key in moves) show(at + moves[event.key]);
      else if (event.key === "Home") show(0);
      else if (event.key === "End") show(film.seconds);
      else return;
      event.preventDefault();
    }

    byId("controls").hidden = false;
    button.addEventListener("click", toggle);
    seek.addEventListener("input", () => show(Number(seek.value)));
    byId("controls").addEventListener("keydown", pressed);
    for (const one of chapters) one.addEventListener("click", () => show(Number(one.dataset.time)));
    show(film.seconds); // it never starts by itself: the last screen is what stands there until it is played
  }

  filterAnswers();
  if (byId("film")) playRecording();
})();
