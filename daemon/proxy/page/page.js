// Reads the page again while somebody looks at it, and shows what has changed.
const main = document.getElementById("main"), word = document.querySelector(".live b");
let seen = "";
async function look() {
  if (document.hidden) return;
  let live = true;
  try {
    const answer = await fetch(location.pathname, { cache: "no-store" });
    const text = await answer.text();
    if (text !== seen) {
      // The answer's markup is the daemon's own, in which a guest's words are escaped.
      const now = new DOMParser().parseFromString(text, "text/html").getElementById("main");
      if (seen && now && now.innerHTML !== main.innerHTML) main.replaceChildren(...now.childNodes);
      seen = text;
    }
  } catch {
    live = false;
  }
  document.body.classList.toggle("stale", !live);
  word.textContent = live ? "live" : "the daemon doesn't answer";
}
look();
setInterval(look, 2000);
document.addEventListener("visibilitychange", look);
