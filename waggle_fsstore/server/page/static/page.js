// SPDX-License-Identifier: Apache-2.0
// Keeps the page up to date: it is loaded again, without its frame, after something has changed.
"use strict";

const live = document.getElementById("live");
const main = document.getElementById("main");
const REFRESH_MS = 1500;
const RETRY_MS = 30000;
let source = null;
let after = live && !live.hidden ? live.dataset.after : "";
let timer = 0;

// A reader who has opened something, or is about to type or to follow a link, is not interrupted.
function isBusy() {
  return main.querySelector("details[open]") !== null
    || (document.activeElement !== main && main.contains(document.activeElement))
    || !document.getSelection().isCollapsed;
}

function offer() {
  if (main.querySelector(".fresh")) return;
  const button = document.createElement("button");
  button.className = "fresh";
  button.textContent = "Show what is new";
  button.addEventListener("click", () => { button.remove(); main.focus(); refresh(); });
  main.prepend(button);
}

async function refresh() {
  timer = 0;
  if (isBusy()) return offer();
  const answer = await fetch(location.href, { credentials: "same-origin" });
  if (answer.redirected) return location.reload();
  if (!answer.ok) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  if (isBusy()) return offer();
  main.replaceChildren(...page.getElementById("main").childNodes);
  document.querySelector("footer").replaceWith(page.querySelector("footer"));
}

function schedule() {
  if (!timer) timer = setTimeout(() => refresh().catch(() => {}), REFRESH_MS);
}

function connect() {
  if (source || document.hidden) return;
  source = new EventSource("stream?after=" + encodeURIComponent(after));
  source.addEventListener("open", () => { live.classList.add("on"); live.textContent = "live"; });
  source.addEventListener("error", () => {
    live.classList.remove("on");
    live.textContent = "not connected";
    // The browser connects again by itself, unless it was refused: no place is free, or no login is left.
    if (source.readyState !== EventSource.CLOSED) return;
    disconnect();
    setTimeout(connect, RETRY_MS);
    schedule();
  });
  source.addEventListener("reset", schedule);
  source.addEventListener("message", (message) => {
    after = message.lastEventId;
    live.textContent = "change " + JSON.parse(message.data).seq;
    schedule();
  });
}

// A browser has few connections to one server: a page that is not seen keeps none.
function disconnect() {
  if (source) source.close();
  source = null;
}

if (live && !live.hidden) {
  document.addEventListener("visibilitychange", () => document.hidden ? disconnect() : connect());
  window.addEventListener("pagehide", disconnect);
  connect();
}
