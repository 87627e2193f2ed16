// A language model with one memory layer, in plain typed arrays: read, asked and taught in the page itself.
// Texts lie one behind the other: M tokens in all; `begins` are [first token, length] of each. X is M x D, row by row.

// Numbers of a model file: float16, or int8 with a scale per row, in base64.
function unpacked(parts, text) {
  const raw = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer,
    weights = {},
    of16 = new Float32Array(65536);
  for (let i = 0; i < 65536; i++) {
    const exponent = (i >> 10) & 31,
      part = i & 1023,
      value = exponent ? 2 ** (exponent - 15) * (1 + part / 1024) : part * 2 ** -24;
    of16[i] = i & 32768 ? -value : value;
  }
  for (const { name, at, rows, columns, kind } of parts) {
    const size = rows * columns,
      numbers = new Float32Array(size);
    if (kind === "float16")
      new Uint16Array(raw, at, size).forEach((half, i) => {
        numbers[i] = of16[half];
      });
    else {
      const scales = new Float32Array(raw, at, rows),
        small = new Int8Array(raw, at + 4 * rows, size);
      for (let i = 0; i < size; i++) numbers[i] = small[i] * scales[Math.floor(i / columns)];
    }
    weights[name] = numbers;
  }
  return weights;
}

// (M, O) = X (M, I) times the transpose of W (O, I); four rows of X at a time.
function times(X, W, M, I, O) {
  const Y = new Float32Array(M * O);
  let m = 0;
  for (; m + 4 <= M; m += 4) {
    const a = m * I,
      b = a + I,
      c = b + I,
      d = c + I;
    for (let o = 0; o < O; o++) {
      let p = 0,
        q = 0,
        r = 0,
        s = 0;
      for (let i = 0, w = o * I; i < I; i++, w++) {
        const v = W[w];
        p += X[a + i] * v;
        q += X[b + i] * v;
        r += X[c + i] * v;
        s += X[d + i] * v;
      }
      Y[m * O + o] = p;
      Y[(m + 1) * O + o] = q;
      Y[(m + 2) * O + o] = r;
      Y[(m + 3) * O + o] = s;
    }
  }
  for (; m < M; m++) {
    for (let o = 0; o < O; o++) {
      let p = 0;
      for (let i = 0; i < I; i++) p += X[m * I + i] * W[o * I + i];
      Y[m * O + o] = p;
    }
  }
  return Y;
}
function add(X, Y) {
  for (let i = 0; i < X.length; i++) X[i] += Y[i];
  return X;
}
const sigmoid = (x) => 1 / (1 + Math.exp(-x));

// The places of the k largest of the first n numbers, largest first.
function largest(numbers, n, k) {
  const places = [];
  for (let j = 0; j < k; j++) {
    let best = -1;
    for (let i = 0; i < n; i++) if ((best < 0 || numbers[i] > numbers[best]) && !places.includes(i)) best = i;
    places.push(best);
  }
  return places;
}

class BrowserModel {
  // `config`: hidden, heads, layers, inner, vocab, theta, eps, memory: { at, slots, heads, k, keyDim, batches }, eos.
  constructor(config, parts, text) {
    Object.assign(this, config);
    this.weights = unpacked(parts, text);
    this.width = this.hidden / this.heads;
    this.values = this.weights.values;
    this.base = this.values.slice();
    this.weights.df = this.weights.dfLow.map((low, slot) => low + 2048 * this.weights.dfHigh[slot]);
    this.turned = {}; // transposed weights, which going backward needs
    const { keys } = this.weights,
      half = this.memory.keyDim / 2;
    for (let i = 0; i < keys.length; i += half) {
      let norm = 0;
      for (let d = 0; d < half; d++) norm += keys[i + d] ** 2;
      norm = Math.max(1e-12, Math.sqrt(norm));
      for (let d = 0; d < half; d++) keys[i + d] /= norm;
    }
  }
  back(name, O, I) {
    if (!this.turned[name]) {
      const W = this.weights[name],
        turned = (this.turned[name] = new Float32Array(O * I));
      for (let o = 0; o < O; o++) for (let i = 0; i < I; i++) turned[i * O + o] = W[o * I + i];
    }
    return this.turned[name];
  }
  norm(X, name, inverse = []) {
    const D = this.hidden,
      weight = this.weights[name],
      Y = new Float32Array(X.length);
    for (let m = 0; m * D < X.length; m++) {
      let sum = 0;
      for (let d = 0; d < D; d++) sum += X[m * D + d] ** 2;
      inverse[m] = 1 / Math.sqrt(sum / D + this.eps);
      for (let d = 0; d < D; d++) Y[m * D + d] = X[m * D + d] * inverse[m] * weight[d];
    }
    return Y;
  }
  normBack(dY, X, name, inverse) {
    const D = this.hidden,
      weight = this.weights[name],
      dX = new Float32Array(X.length);
    for (let m = 0; m * D < X.length; m++) {
      let sum = 0;
      for (let d = 0; d < D; d++) sum += dY[m * D + d] * weight[d] * X[m * D + d];
      sum *= inverse[m] ** 3 / D;
      for (let d = 0; d < D; d++) dX[m * D + d] = dY[m * D + d] * weight[d] * inverse[m] - X[m * D + d] * sum;
    }
    return dX;
  }
  turn(X, batch, sign) {
    // rotary positions; sign -1 takes them back
    const { hidden: D, heads, width } = this,
      half = width / 2;
    batch.places.forEach((place, m) => {
      for (let i = 0; i < half; i++) {
        const angle = place * this.theta ** (-i / half),
          cos = Math.cos(angle),
          sin = sign * Math.sin(angle);
        for (let h = 0; h < heads; h++) {
          const at = m * D + h * width + i,
            [u, v] = [X[at], X[at + half]];
          X[at] = u * cos - v * sin;
          X[at + half] = v * cos + u * sin;
        }
      }
    });
  }
  attention(layer, X, batch, kept = {}) {
    const { hidden: D, heads, width } = this,
      M = batch.ids.length,
      inverse = [],
      H = this.norm(X, `${layer}.before`, inverse);
    const [q, k, v] = ["q", "k", "v"].map((name) => times(H, this.weights[`${layer}.${name}`], M, D, D));
    this.turn(q, batch, 1);
    this.turn(k, batch, 1);
    const out = new Float32Array(M * D),
      shares = [];
    for (const [first, T] of batch.begins) {
      for (let h = 0; h < heads; h++) {
        const share = new Float32Array(T * T);
        shares.push(share);
        for (let i = 0; i < T; i++) {
          const x = (first + i) * D + h * width;
          let most = -Infinity,
            sum = 0;
          for (let j = 0; j <= i; j++) {
            const y = (first + j) * D + h * width;
            let dot = 0;
            for (let d = 0; d < width; d++) dot += q[x + d] * k[y + d];
            share[i * T + j] = dot / Math.sqrt(width);
            most = Math.max(most, share[i * T + j]);
          }
          for (let j = 0; j <= i; j++) sum += share[i * T + j] = Math.exp(share[i * T + j] - most);
          for (let j = 0; j <= i; j++) {
            const y = (first + j) * D + h * width,
              part = (share[i * T + j] /= sum);
            for (let d = 0; d < width; d++) out[x + d] += part * v[y + d];
          }
        }
      }
    }
    Object.assign(kept, { X, inverse, q, k, v, shares });
    return add(times(out, this.weights[`${layer}.o`], M, D, D), X);
  }
  attentionBack(layer, dY, batch, { X, inverse, q, k, v, shares }) {
    const { hidden: D, heads, width } = this,
      M = batch.ids.length,
      dOut = times(dY, this.back(`${layer}.o`, D, D), M, D, D);
    const [dq, dk, dv] = [0, 0, 0].map(() => new Float32Array(M * D));
    let n = 0;
    for (const [first, T] of batch.begins) {
      for (let h = 0; h < heads; h++) {
        const share = shares[n++],
          slope = new Float32Array(T);
        for (let i = 0; i < T; i++) {
          const x = (first + i) * D + h * width;
          let mean = 0;
          for (let j = 0; j <= i; j++) {
            const y = (first + j) * D + h * width,
              part = share[i * T + j];
            slope[j] = 0;
            for (let d = 0; d < width; d++) {
              slope[j] += dOut[x + d] * v[y + d];
              dv[y + d] += part * dOut[x + d];
            }
            mean += part * slope[j];
          }
          for (let j = 0; j <= i; j++) {
            const y = (first + j) * D + h * width,
              g = (share[i * T + j] * (slope[j] - mean)) / Math.sqrt(width);
            for (let d = 0; d < width; d++) {
              dq[x + d] += g * k[y + d];
              dk[y + d] += g * q[x + d];
            }
          }
        }
      }
    }
    this.turn(dq, batch, -1);
    this.turn(dk, batch, -1);
    const parts = [
      ["q", dq],
      ["k", dk],
      ["v", dv],
    ].map(([name, d]) => times(d, this.back(`${layer}.${name}`, D, D), M, D, D));
    return add(this.normBack(parts.reduce(add), X, `${layer}.before`, inverse), dY);
  }
  feed(layer, X, kept = {}) {
    const { hidden: D, inner: I } = this,
      M = X.length / D,
      inverse = [],
      H = this.norm(X, `${layer}.after`, inverse);
    const gate = times(H, this.weights[`${layer}.gate`], M, D, I),
      up = times(H, this.weights[`${layer}.up`], M, D, I);
    Object.assign(kept, { X, inverse, gate, up });
    return add(
      times(
        gate.map((g, i) => g * sigmoid(g) * up[i]),
        this.weights[`${layer}.down`],
        M,
        I,
        D,
      ),
      X,
    );
  }
  feedBack(layer, dY, { X, inverse, gate, up }) {
    const { hidden: D, inner: I } = this,
      M = X.length / D,
      d = times(dY, this.back(`${layer}.down`, D, I), M, D, I);
    const dUp = d.map((g, i) => g * gate[i] * sigmoid(gate[i]));
    const dGate = d.map((g, i) => g * up[i] * sigmoid(gate[i]) * (1 + gate[i] * (1 - sigmoid(gate[i]))));
    const dH = add(
      times(dGate, this.back(`${layer}.gate`, I, D), M, I, D),
      times(dUp, this.back(`${layer}.up`, I, D), M, I, D),
    );
    return add(this.normBack(dH, X, `${layer}.after`, inverse), dY);
  }

  // What values can't change: all up to the slots that each token reads.
  lower(batch) {
    const { hidden: D, memory } = this,
      M = batch.ids.length,
      { at, heads, k, keyDim } = memory,
      root = Math.sqrt(memory.slots),
      half = keyDim / 2;
    let X = new Float32Array(M * D);
    batch.ids.forEach((id, m) => X.set(this.weights.embed.subarray(id * D, (id + 1) * D), m * D));
    for (let layer = 0; layer < at; layer++) X = this.feed(layer, this.attention(layer, X, batch));
    X = this.attention(at, X, batch);
    const H = this.norm(X, `${at}.after`),
      gate = times(H, this.weights.memoryGate, M, D, D).map((g) => g * sigmoid(g));
    const query = times(H, this.weights.query, M, D, heads * keyDim),
      { keys, temperature } = this.weights;
    const slots = new Int32Array(M * heads * k),
      shares = new Float32Array(M * heads * k);
    const scores = [new Float32Array(root), new Float32Array(root)],
      sums = new Float32Array(k * k);
    for (let m = 0; m < M; m++) {
      for (let h = 0; h < heads; h++) {
        const best = scores.map((mine, c) => {
          const from = m * heads * keyDim + h * keyDim + c * half;
          let norm = 0;
          for (let d = 0; d < half; d++) norm += query[from + d] ** 2;
          norm = temperature[h] / Math.max(1e-12, Math.sqrt(norm));
          for (let r = 0; r < root; r++) {
            const key = ((c * heads + h) * root + r) * half;
            let dot = 0;
            for (let d = 0; d < half; d++) dot += query[from + d] * keys[key + d];
            mine[r] = dot * norm;
          }
          return largest(mine, root, k);
        });
        for (let i = 0; i < k; i++)
          for (let j = 0; j < k; j++) sums[i * k + j] = scores[0][best[0][i]] + scores[1][best[1][j]];
        const read = largest(sums, k * k, k),
          parts = read.map((pair) => Math.exp(sums[pair] - sums[read[0]])),
          all = parts.reduce((a, b) => a + b);
        read.forEach((pair, i) => {
          const place = (m * heads + h) * k + i;
          slots[place] = best[0][Math.floor(pair / k)] * root + best[1][pair % k];
          shares[place] = parts[i] / all;
        });
      }
    }
    return { X, gate, slots, shares };
  }
  // From the memory's values to the last hidden states.
  upper(batch, { X, gate, slots, shares }, kept = { layers: [], inverse: [] }) {
    const { hidden: D, values } = this,
      M = batch.ids.length,
      reads = slots.length / M,
      Y = new Float32Array(M * D);
    for (let m = 0; m < M; m++) {
      for (let r = 0; r < reads; r++) {
        const share = shares[m * reads + r],
          row = slots[m * reads + r] * D;
        for (let d = 0; d < D; d++) Y[m * D + d] += share * values[row + d];
      }
    }
    let Z = add(
      times(
        Y.map((y, i) => y * gate[i]),
        this.weights.memoryOut,
        M,
        D,
        D,
      ),
      X,
    );
    for (let layer = this.memory.at + 1; layer < this.layers; layer++) {
      const own = { attention: {}, feed: {} };
      kept.layers.push(own);
      Z = this.feed(layer, this.attention(layer, Z, batch, own.attention), own.feed);
    }
    kept.Z = Z;
    return this.norm(Z, "norm", kept.inverse);
  }
  says(H, m) {
    // the most likely next token after token m
    const {
      hidden: D,
      vocab,
      weights: { embed },
    } = this;
    let best = 0,
      most = -Infinity;
    for (let id = 0; id < vocab; id++) {
      let dot = 0;
      for (let d = 0; d < D; d++) dot += H[m * D + d] * embed[id * D + d];
      if (dot > most) [best, most] = [id, dot];
    }
    return best;
  }
  answer(prompt, longest = 24) {
    const ids = [...prompt];
    for (let n = 0; n < longest; n++) {
      const batch = batchOf([ids]),
        next = this.says(this.upper(batch, this.lower(batch)), ids.length - 1);
      if (next === this.eos) break;
      ids.push(next);
    }
    return ids.slice(prompt.length);
  }
  // Whether the model would say the end of each text, from its `from`th token on; `kept` spares the lower half the next time.
  recalls(texts, kept = {}) {
    kept.batch ??= batchOf(texts.map(({ ids }) => ids));
    kept.read ??= this.lower(kept.batch);
    const H = this.upper(kept.batch, kept.read);
    return texts.map(({ ids, from }, n) =>
      ids.slice(from).every((id, i) => this.says(H, kept.batch.begins[n][0] + from + i - 1) === id),
    );
  }
  // The top t slots of a batch by TF-IDF.
  chosen({ slots }, t) {
    const count = new Map(),
      { df } = this.weights;
    for (const slot of slots) count.set(slot, (count.get(slot) ?? 0) + 1);
    const score = ([slot, n]) => [n * Math.log((this.memory.batches + 1) / (df[slot] + 1)), slot];
    return [...count]
      .map(score)
      .sort((a, b) => b[0] - a[0] || a[1] - b[1])
      .slice(0, t)
      .map(([, slot]) => slot);
  }
  // Teach texts, one gradient step a turn, by Adam on the rows of the top t slots; yields { step, loss, slots }.
  *teach(texts, { steps, t, rate }) {
    const { hidden: D, vocab, values } = this,
      batch = batchOf(texts),
      read = this.lower(batch),
      M = batch.ids.length,
      reads = read.slots.length / M;
    const slots = this.chosen(read, t),
      place = new Map(slots.map((slot, i) => [slot, i])),
      second = new Float32Array(slots.length * D);
    const next = new Int32Array(M).fill(-1);
    for (const [first, T] of batch.begins) for (let i = first; i + 1 < first + T; i++) next[i] = batch.ids[i + 1];
    const told = next.filter((id) => id >= 0).length;
    for (let step = 1; step <= steps; step++) {
      const kept = { layers: [], inverse: [] },
        slope = times(this.upper(batch, read, kept), this.weights.embed, M, D, vocab);
      let loss = 0;
      for (let m = 0; m < M; m++) {
        const mine = slope.subarray(m * vocab, (m + 1) * vocab);
        if (next[m] < 0) {
          mine.fill(0);
          continue;
        }
        let most = -Infinity,
          sum = 0;
        for (const one of mine) most = Math.max(most, one);
        for (const one of mine) sum += Math.exp(one - most);
        loss += Math.log(sum) + most - mine[next[m]];
        for (let i = 0; i < vocab; i++) mine[i] = Math.exp(mine[i] - most) / (sum * told);
        mine[next[m]] -= 1 / told;
      }
      let d = this.normBack(times(slope, this.back("embed", vocab, D), M, vocab, D), kept.Z, "norm", kept.inverse);
      for (let layer = this.layers - 1; layer > this.memory.at; layer--) {
        const own = kept.layers[layer - this.memory.at - 1];
        d = this.attentionBack(layer, this.feedBack(layer, d, own.feed), batch, own.attention);
      }
      d = times(d, this.back("memoryOut", D, D), M, D, D).map((g, i) => g * read.gate[i]);
      const rows = new Float32Array(slots.length * D),
        corrected = 1 - 0.999 ** step;
      for (let at = 0; at < read.slots.length; at++) {
        const row = place.get(read.slots[at]),
          m = Math.floor(at / reads);
        if (row !== undefined) for (let i = 0; i < D; i++) rows[row * D + i] += read.shares[at] * d[m * D + i];
      }
      slots.forEach((slot, row) => {
        for (let i = row * D, v = slot * D; i < (row + 1) * D; i++, v++) {
          second[i] = 0.999 * second[i] + 0.001 * rows[i] ** 2;
          values[v] -= (rate * rows[i]) / (Math.sqrt(second[i] / corrected) + 1e-8);
        }
      });
      yield { step, loss: loss / told, slots: slots.length };
    }
  }
}
function batchOf(texts) {
  const ids = [],
    places = [],
    begins = [];
  for (const text of texts) {
    begins.push([ids.length, text.length]);
    text.forEach((id, place) => {
      ids.push(id);
      places.push(place);
    });
  }
  return { ids, places, begins };
}

// Byte-level BPE whose digits stand alone, as the model's own tokenizer.
class BytePairs {
  constructor({ vocab, merges, bos, eos }) {
    Object.assign(this, { vocab, bos, eos });
    this.ranks = new Map(merges.map(([left, right], rank) => [`${left} ${right}`, rank]));
    this.written = Object.entries(vocab).reduce((words, [word, id]) => {
      words[id] = word;
      return words;
    }, []);
    const plain = (byte) => (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    let extra = 256;
    this.letters = Array.from({ length: 256 }, (_, byte) => String.fromCodePoint(plain(byte) ? byte : extra++));
    this.bytes = new Map(this.letters.map((letter, byte) => [letter, byte]));
  }
  encode(text) {
    const ids = [this.bos],
      pieces =
        (/^\s/.test(text) ? text : ` ${text}`).match(
          /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu,
        ) ?? [];
    for (const piece of pieces) {
      const letters = [...new TextEncoder().encode(piece)].map((byte) => this.letters[byte]).join("");
      for (const word of letters.match(/\p{N}|\P{N}+/gu) ?? [])
        ids.push(...this.merged([...word]).map((one) => this.vocab[one]));
    }
    return ids;
  }
  merged(parts) {
    for (;;) {
      let best = Infinity,
        at = -1;
      for (let i = 0; i + 1 < parts.length; i++) {
        const rank = this.ranks.get(`${parts[i]} ${parts[i + 1]}`) ?? Infinity;
        if (rank < best) [best, at] = [rank, i];
      }
      if (at < 0) return parts;
      parts.splice(at, 2, parts[at] + parts[at + 1]);
    }
  }
  decode(ids) {
    const bytes = ids.flatMap((id) =>
      [...(this.written[id] ?? "")].map((letter) => this.bytes.get(letter)).filter((byte) => byte !== undefined),
    );
    return new TextDecoder().decode(Uint8Array.from(bytes));
  }
}
