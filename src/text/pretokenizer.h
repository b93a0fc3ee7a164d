// PieceReader: cuts a segment of text into the pieces that BPE works on, one at a time.
//
// The hand-written form of V4's three regex splits (protocol 1.2): digit runs in threes, then runs of
// Han and kana, then words, punctuation and white space. No two pieces overlap and none is empty; in
// order they are the segment. Time is linear in the segment, and nothing is allocated.
// Bytes that are not UTF-8 count as unassigned characters, one each, so that every byte lands in a piece.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace kvasir {

class PieceReader {
 public:
  // A segment is what lies between two added tokens. It must outlive the reader and its pieces.
  explicit PieceReader(std::string_view segment) : text_(segment) {}

  // The next piece, or false at the end of the segment.
  bool next(std::string_view& piece);

 private:
  void enter_region();
  // Where the piece that starts at pos_ ends.
  size_t digits_end() const;
  size_t piece_end() const;
  size_t space_end() const;
  // Skip, from `pos`, the characters that have any of `flags`; not past the region.
  size_t skip(size_t pos, uint8_t flags) const;

  std::string_view text_;
  size_t pos_ = 0;
  // A region is what the first two splits leave: a run of numbers, a run of Han and kana, or what lies
  // between. The third split sees one region at a time, and its look-ahead ends with the region.
  size_t region_end_ = 0;
  bool region_is_number_ = false;
};

}  // namespace kvasir
