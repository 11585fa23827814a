// Puts in the parts that the server sends, and says when it sends nothing. The page is complete without this script.
"use strict";

const connection = document.getElementById("connection");
let source = null;
let drawn = "";

function say(text) {
  connection.textContent = text;
  connection.hidden = text === "";
}

function now() {
  return new Date().toLocaleTimeString();
}

function width(id) {
  return Math.floor(document.getElementById(id).clientWidth);
}

function put(parts) {
  for (const [id, html] of Object.entries(parts)) {
    const element = document.getElementById(id);
    if (element) element.innerHTML = html;
  }
  const headline = document.getElementById("headline").textContent;
  document.title = headline + " – Peerless";
}

function open() {
  const widths = "width=" + width("loss") + "&wide=" + width("lives");
  if (source && drawn === widths && source.readyState !== EventSource.CLOSED) return;
  if (source) source.close();
  drawn = widths;
  source = new EventSource("/events?" + widths);
  source.addEventListener("open", () => say(""));
  source.addEventListener("parts", (event) => put(JSON.parse(event.data)));
  source.addEventListener("closing", () => {
    source.close();
    source = null;
    removeEventListener("resize", resized);
    say("The dashboard was closed at " + now() + ". This is what it showed last; `peerless dashboard` opens it again.");
  });
  source.addEventListener("error", (event) => {
    say("Connection lost at " + now() + ". What is below is from before; trying again by itself.");
    // The browser itself tries again unless the server answered with an error.
    if (event.target.readyState === EventSource.CLOSED) setTimeout(open, 5000);
  });
}

let waiting = 0;
function resized() {
  clearTimeout(waiting);
  waiting = setTimeout(open, 300);
}

addEventListener("resize", resized);
open();
