// The scores that Sphinx gives, and more for the two pages that are made to be looked things up in.
const FIRST = { "docs/how_do_i": 10, "docs/glossary": 8 };
var Scorer = {
  score: ([page, , , , score]) => score + (FIRST[page] ?? 0),
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
