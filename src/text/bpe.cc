// Bpe: two ways to the same merges, by the length of what is merged, and the windows of a long piece.
//
// Why windows are exact. Ranks only rise along a chain of merges (3), so merging is a sequence of
// stages, one a rank: replace every occurrence of its pair, leftmost first. If the encoding of a text
// has a token boundary at p, no merge ever crossed p, so both sides went through the stages as they
// would have alone (of equal symbols in a row, an even number stood before p). Two consequences:
//  (a) any run of consecutive tokens of an encoding is the encoding of its own text;
//  (b) tokens of which each neighbouring two are the encoding of their text are, together, the
//      encoding of the whole: by induction over the stages, nothing crosses a boundary in any of them.
// So if the encoding of a text's beginning and the encoding of a window that overlaps its end share a
// token (same place, same token), the first up to that token and the second from it on are the encoding of
// both together. encode_windows keeps `out` such an encoding of what it has read. A window that shares no
// token with it is widened, for that step only: it happens where tokens are long (a line of one character) or
// where merges lean on what follows them. The widest window is the whole piece. Each step either reads at
// least half a window of new text or is followed by one four times as wide, so the time stays linear.
#include "text/bpe.h"

#include <algorithm>
#include <bit>
#include <functional>

#include "base/check.h"

namespace kvasir {
namespace {

constexpr int kSymbolBits = 21;
constexpr uint64_t kEmptySlot = ~uint64_t{0};

inline uint64_t pair_key(uint32_t left, uint32_t right) { return uint64_t{left} << kSymbolBits | right; }

inline size_t pair_hash(uint64_t key, int shift) { return (key * 0x9e3779b97f4a7c15u) >> shift; }

}  // namespace

Bpe::Bpe(const std::array<TokenId, 256>& bytes, std::span<const Merge> merges)
    : tokens_(bytes.begin(), bytes.end()), lengths_(256, 1), byte_pairs_(256 * 256, kNoMerge) {
  KVASIR_CHECK(merges.size() + 256 < size_t{1} << kSymbolBits, "{} merges", merges.size());
  const size_t slots = std::max<size_t>(2, std::bit_ceil(merges.size() * 2));
  slots_.assign(slots, kEmptySlot);
  shift_ = 64 - std::countr_zero(slots);

  TokenId most = 0;
  for (TokenId t : bytes) most = std::max(most, t);
  for (const Merge& m : merges) most = std::max(most, m.product);
  std::vector<Symbol> symbol_of(static_cast<size_t>(most) + 1, kNoMerge);
  for (size_t b = 0; b < 256; ++b) symbol_of[bytes[b]] = static_cast<Symbol>(b);

  tokens_.reserve(256 + merges.size());
  lengths_.reserve(256 + merges.size());
  for (const Merge& m : merges) {
    const Symbol left = symbol_of[m.left], right = symbol_of[m.right];
    const Symbol product = static_cast<Symbol>(tokens_.size());
    KVASIR_CHECK(left < product && right < product && symbol_of[m.product] == kNoMerge,
                 "merge of {} and {} to {}", m.left, m.right, m.product);
    symbol_of[m.product] = product;
    tokens_.push_back(m.product);
    lengths_.push_back(lengths_[left] + lengths_[right]);
    if (left < 256 && right < 256) {
      byte_pairs_[left * 256 + right] = product;
      continue;
    }
    size_t slot = pair_hash(pair_key(left, right), shift_);
    while (slots_[slot] != kEmptySlot) slot = (slot + 1) & (slots - 1);
    slots_[slot] = pair_key(left, right) << kSymbolBits | product;
  }
}

inline Bpe::Symbol Bpe::merged(Symbol left, Symbol right) const {
  if ((left | right) < 256) return byte_pairs_[left * 256 + right];
  const uint64_t key = pair_key(left, right);
  for (size_t slot = pair_hash(key, shift_);; slot = (slot + 1) & (slots_.size() - 1)) {
    const uint64_t entry = slots_[slot];
    if (entry >> kSymbolBits == key) return static_cast<Symbol>(entry & ((1u << kSymbolBits) - 1));
    if (entry == kEmptySlot) return kNoMerge;
  }
}

// Scans for the lowest pair each time: quadratic, and the fastest way for a word. Returns the count.
size_t Bpe::merge_short(std::string_view text, Symbol* symbols) const {
  size_t count = text.size();
  Symbol made[kShort + 1];  // made[i]: what symbols i and i + 1 make
  for (size_t i = 0; i < count; ++i) symbols[i] = static_cast<uint8_t>(text[i]);
  for (size_t i = 0; i + 1 < count; ++i) made[i] = byte_pairs_[symbols[i] * 256 + symbols[i + 1]];
  while (count > 1) {
    uint64_t lowest = uint64_t{kNoMerge} << 8;
    for (size_t i = 0; i + 1 < count; ++i) lowest = std::min(lowest, uint64_t{made[i]} << 8 | i);
    const Symbol product = static_cast<Symbol>(lowest >> 8);
    if (product == kNoMerge) break;
    const size_t at = lowest & 0xff;
    symbols[at] = product;
    --count;
    for (size_t i = at + 1; i < count; ++i) {
      symbols[i] = symbols[i + 1];
      made[i - 1] = made[i];
    }
    if (at > 0) made[at - 1] = merged(symbols[at - 1], product);
    if (at + 1 < count) made[at] = merged(product, symbols[at + 1]);
  }
  return count;
}

// A heap of candidate pairs over a linked list: for windows that scanning would be too slow for.
// Leaves the symbols in scratch.window.
void Bpe::merge_long(std::string_view text, BpeScratch& scratch) const {
  constexpr uint32_t kEnd = 0xffffffff, kGone = kNoMerge;
  auto& nodes = scratch.nodes;
  auto& heap = scratch.heap;  // product << 32 | node: lowest rank first, then leftmost
  const uint32_t count = static_cast<uint32_t>(text.size());
  nodes.resize(count);
  heap.clear();
  for (uint32_t i = 0; i < count; ++i) {
    nodes[i] = {static_cast<uint8_t>(text[i]), i - 1, i + 1 < count ? i + 1 : kEnd};
  }
  auto pair_at = [&](uint32_t i) {
    const uint32_t next = nodes[i].next;
    return next == kEnd ? kNoMerge : merged(nodes[i].symbol, nodes[next].symbol);
  };
  for (uint32_t i = 0; i < count; ++i) {
    if (const Symbol product = pair_at(i); product != kNoMerge) heap.push_back(uint64_t{product} << 32 | i);
  }
  std::make_heap(heap.begin(), heap.end(), std::greater<>());
  auto offer = [&](uint32_t i) {
    if (const Symbol product = pair_at(i); product != kNoMerge) {
      heap.push_back(uint64_t{product} << 32 | i);
      std::push_heap(heap.begin(), heap.end(), std::greater<>());
    }
  };
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    const uint64_t top = heap.back();
    heap.pop_back();
    const uint32_t i = static_cast<uint32_t>(top);
    const Symbol product = static_cast<Symbol>(top >> 32);
    if (nodes[i].symbol == kGone || pair_at(i) != product) continue;  // its symbols were merged meanwhile
    const uint32_t right = nodes[i].next, after = nodes[right].next;
    nodes[i] = {product, nodes[i].previous, after};
    nodes[right].symbol = kGone;
    if (after != kEnd) nodes[after].previous = i;
    if (i != 0) offer(nodes[i].previous);
    offer(i);
  }
  scratch.window.clear();
  for (uint32_t i = 0; i != kEnd; i = nodes[i].next) scratch.window.push_back(nodes[i].symbol);
}

void Bpe::encode(std::string_view piece, BpeScratch& scratch, std::vector<TokenId>& out) const {
  KVASIR_CHECK(piece.size() < 0xffffffff, "a piece of {} bytes", piece.size());
  if (piece.size() > kShort) return encode_windows(piece, scratch, out);
  Symbol symbols[kShort];
  const size_t count = merge_short(piece, symbols);
  for (size_t i = 0; i < count; ++i) out.push_back(tokens_[symbols[i]]);
}

// `out` from `base` on holds symbols until the end, when they become tokens.
void Bpe::encode_windows(std::string_view piece, BpeScratch& scratch, std::vector<TokenId>& out) const {
  constexpr size_t kOverlap = 3;  // tokens that a window reads again
  const size_t base = out.size();
  size_t read = 0;  // invariant: out[base..] is the encoding of piece[0, read)
  size_t window = kShort, overlap = kOverlap;
  while (read < piece.size()) {
    size_t kept = out.size(), start = read;
    for (size_t i = 0; i < overlap && kept > base; ++i) start -= lengths_[out[--kept]];
    window = std::max(window, 2 * (read - start));  // at least half of a window is new
    const std::string_view text = piece.substr(start, window);
    if (text.size() <= kShort) {
      scratch.window.resize(kShort);
      scratch.window.resize(merge_short(text, scratch.window.data()));
    } else {
      merge_long(text, scratch);
    }

    // The first token that both have. At the start of the piece there is nothing to agree with.
    const std::vector<Symbol>& fresh = scratch.window;
    size_t i = kept, k = 0, i_at = start, k_at = start;
    bool agreed = kept == base;
    while (!agreed && i < out.size() && k < fresh.size()) {
      if (i_at == k_at && static_cast<Symbol>(out[i]) == fresh[k]) {
        agreed = true;
      } else if (i_at <= k_at) {
        i_at += lengths_[out[i++]];
      } else {
        k_at += lengths_[fresh[k++]];
      }
    }
    if (!agreed) {
      window *= 4;
      overlap *= 4;
      continue;
    }
    out.resize(i);
    out.insert(out.end(), fresh.begin() + static_cast<ptrdiff_t>(k), fresh.end());
    read = start + text.size();
    window = kShort;
    overlap = kOverlap;
  }
  for (size_t i = base; i < out.size(); ++i) out[i] = tokens_[out[i]];
}

}  // namespace kvasir
