// Shows the answers of an evaluation that pass the filters. Text is only ever set as text.
"use strict";
(function () {
  var given = JSON.parse(document.getElementById("page-data").textContent);
  var answers = given.answers;
  var form = document.getElementById("filters");
  var rows = document.getElementById("rows");
  var more = document.getElementById("more");
  var PAGE = 50, limit = PAGE;

  ["model", "data", "part"].forEach(function (name) {
    var values = Array.from(new Set(answers.map(function (each) { return each[name]; }))).sort();
    offer(name, values.filter(Boolean));
  });
  offer("difficulty", given.classes);
  form.elements.difficulty.parentElement.hidden = !given.classes.length;

  function offer(name, values) {
    values.forEach(function (value) {
      var option = document.createElement("option");
      option.textContent = value;
      form.elements[name].append(option);
    });
  }

  function judged(answer) {
    if (answer.reward === null) { return "not judged"; }
    return answer.reward === 1 ? "right" : answer.reward === 0 ? "wrong" : "graded";
  }

  function passes(answer) {
    var wanted = form.elements, text = wanted.q.value.toLowerCase();
    return ["model", "data", "part", "difficulty"].every(function (name) {
      return !wanted[name].value || wanted[name].value === answer[name];
    }) && (!wanted.judged.value || wanted.judged.value === judged(answer)) &&
      (!text || (answer.prompt + "\n" + answer.response).toLowerCase().includes(text));
  }

  function cell(row, text, style) {
    var place = row.insertCell();
    var inner = document.createElement(style === "pill" ? "span" : "div");
    inner.textContent = text;
    if (style) { inner.className = style; }
    place.append(inner);
    return inner;
  }

  function show() {
    var found = answers.filter(passes);
    rows.replaceChildren();
    found.slice(0, limit).forEach(function (answer) {
      var row = rows.insertRow();
      cell(row, answer.item + "/" + answer.sample, "part");
      var pill = cell(row, answer.reward === null ? "none" : String(answer.reward), "pill");
      if (answer.reward === 1) { pill.classList.add("good"); }
      if (answer.error) { pill.classList.add("bad"); pill.title = answer.error; }
      cell(row, answer.rate === null ? "" : Math.round(100 * answer.rate) + "%", "num");
      var texts = [cell(row, answer.prompt, "clip"), cell(row, answer.response, "clip")];
      cell(row, (answer.tokens ?? "") + (answer.finish === "length" ? " (cut off)" : ""), "num");
      cell(row, answer.model + " " + answer.data + " " + answer.part, "part");
      row.addEventListener("click", function () {
        texts.forEach(function (each) { each.classList.toggle("clip"); });
      });
    });
    document.getElementById("shown").textContent = found.length + " answers";
    more.hidden = found.length <= limit;
  }

  form.addEventListener("input", function () { limit = PAGE; show(); });
  form.addEventListener("reset", function () { setTimeout(show); });
  form.addEventListener("submit", function (event) { event.preventDefault(); });
  more.addEventListener("click", function () { limit += PAGE; show(); });
  show();
})();
