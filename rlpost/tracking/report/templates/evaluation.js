// Shows the answers that pass the filters, those of all models side by side. Text is only ever set as text.
"use strict";
(function () {
  var given = JSON.parse(document.getElementById("page-data").textContent);
  var form = document.getElementById("filters");
  var body = document.getElementById("rows");
  var more = document.getElementById("more");
  var PAGE = 50, limit = PAGE;

  offer("model", given.models);
  ["data", "part"].forEach(function (name) {
    offer(name, Array.from(new Set(given.rows.map(function (row) { return row[name]; }))).sort());
  });
  offer("difficulty", given.classes);
  form.elements.difficulty.parentElement.hidden = !given.classes.length;

  function offer(name, values) {
    values.filter(Boolean).forEach(function (value) {
      var option = document.createElement("option");
      option.textContent = value;
      form.elements[name].append(option);
    });
  }

  function judged(answer) {
    if (answer.reward === null) { return "not judged"; }
    return answer.reward === 1 ? "right" : answer.reward === 0 ? "wrong" : "graded";
  }

  // The answers of a row that count for filters: those of the chosen model, or of all.
  function chosen(row) {
    return row.answers.filter(function (answer, place) {
      var model = form.elements.model.value;
      return answer && (!model || given.models[place] === model);
    });
  }

  function passes(row) {
    var wanted = form.elements, text = wanted.q.value.toLowerCase(), answers = chosen(row);
    function any(test) { return answers.some(test); }
    function judgedSo() {
      if (wanted.judged.value === "differently") {
        return new Set(row.answers.filter(Boolean).map(function (a) { return a.reward; })).size > 1;
      }
      return any(function (answer) { return judged(answer) === wanted.judged.value; });
    }
    return ["data", "part"].every(function (name) {
      return !wanted[name].value || wanted[name].value === row[name];
    }) && answers.length && (!wanted.judged.value || judgedSo()) &&
      (!wanted.difficulty.value || any(function (a) { return a.difficulty === wanted.difficulty.value; })) &&
      (!text || row.prompt.toLowerCase().includes(text) ||
        any(function (a) { return a.response.toLowerCase().includes(text); }));
  }

  function add(place, kind, text, style) {
    var inner = document.createElement(kind);
    inner.textContent = text;
    if (style) { inner.className = style; }
    place.append(inner);
    return inner;
  }

  function answerCell(row, answer) {
    var place = row.insertCell();
    if (!answer) { return add(place, "div", "not answered"); }
    var text = add(place, "div", answer.response, "clip");
    var pill = add(place, "span", answer.reward === null ? "none" : String(answer.reward), "pill");
    if (answer.reward === 1) { pill.classList.add("good"); }
    if (answer.error) { pill.classList.add("bad"); pill.title = answer.error; }
    var said = [];
    if (given.classes.length && answer.rate !== null) { said.push(Math.round(100 * answer.rate) + "% right"); }
    if (answer.tokens !== null) { said.push(answer.tokens + " tokens"); }
    if (answer.finish === "length") { said.push("cut off"); }
    add(place, "span", " " + said.join(", "), "part");
    return text;
  }

  function show() {
    var found = given.rows.filter(passes);
    body.replaceChildren();
    found.slice(0, limit).forEach(function (each) {
      var row = body.insertRow();
      add(row.insertCell(), "div", each.data + " " + each.part + " " + each.item + "/" + each.sample, "part");
      var texts = [add(row.insertCell(), "div", each.prompt, "clip")];
      each.answers.forEach(function (answer) { texts.push(answerCell(row, answer)); });
      row.addEventListener("click", function () {
        texts.forEach(function (text) { text.classList.toggle("clip"); });
      });
    });
    document.getElementById("shown").textContent = found.length + " of " + given.rows.length + " samples";
    more.hidden = found.length <= limit;
  }

  form.addEventListener("input", function () { limit = PAGE; show(); });
  form.addEventListener("reset", function () { setTimeout(show); });
  form.addEventListener("submit", function (event) { event.preventDefault(); });
  more.addEventListener("click", function () { limit += PAGE; show(); });
  show();
})();
