#include "grammar/grammar.h"

#include <bit>

namespace kvasir {

size_t PropertySet::count() const {
  size_t n = 0;
  for (uint64_t word : words) n += static_cast<size_t>(std::popcount(word));
  return n;
}

bool PropertySet::intersects(const PropertySet& other) const { return !(*this & other).empty(); }

PropertySet PropertySet::operator&(const PropertySet& other) const {
  PropertySet out;
  for (size_t i = 0; i < words.size(); ++i) out.words[i] = words[i] & other.words[i];
  return out;
}

PropertySet PropertySet::operator|(const PropertySet& other) const {
  PropertySet out;
  for (size_t i = 0; i < words.size(); ++i) out.words[i] = words[i] | other.words[i];
  return out;
}

PropertySet PropertySet::without(const PropertySet& other) const {
  PropertySet out;
  for (size_t i = 0; i < words.size(); ++i) out.words[i] = words[i] & ~other.words[i];
  return out;
}

size_t Grammar::bytes() const {
  size_t total = sizeof *this;
  for (const ValueRule& v : values) total += sizeof v + v.alternatives.size() * sizeof(Alternative);
  for (const SharedDfa& d : dfas) total += d->bytes();
  total += counted.size() * sizeof(CountedRule);
  for (const ObjectRule& o : objects) {
    total +=
        sizeof o + o.reach.size() * sizeof(ObjectRule::Reach) + o.values.size() * sizeof(ObjectRule::Value);
    if (o.keys) total += o.keys->bytes();
  }
  for (const ArrayRule& a : arrays) total += sizeof a + a.prefix.size() * sizeof(uint32_t);
  for (const auto& tool : block.tools) total += sizeof tool + tool.size() * sizeof(uint32_t);
  if (block.tool_names) total += block.tool_names->bytes();
  return total;
}

}  // namespace kvasir
