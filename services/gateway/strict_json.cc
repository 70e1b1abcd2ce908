#include "services/gateway/strict_json.h"

#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "services/gateway/excerpt.h"

namespace conclave::gateway {

namespace {

using nlohmann::json;

// Builds the document, and stops at the first thing that is not allowed.
class StrictSax final : public nlohmann::json_sax<json> {
 public:
  bool null() override { return Value(nullptr); }
  bool boolean(bool value) override { return Value(value); }
  bool number_integer(number_integer_t value) override { return Value(value); }
  bool number_unsigned(number_unsigned_t value) override { return Value(value); }
  bool number_float(number_float_t value, const string_t&) override { return Value(value); }
  bool string(string_t& value) override { return Value(std::move(value)); }
  bool binary(binary_t&) override { return false; }
  bool start_object(std::size_t) override { return Open(json::object()); }
  bool start_array(std::size_t) override { return Open(json::array()); }
  bool end_object() override { return Close(); }
  bool end_array() override { return Close(); }
  bool key(string_t& key) override {
    if (open_.back()->contains(key)) {
      error_ = absl::StrCat("has the key \"", Excerpt(key, 100), "\" twice in one object");
      return false;
    }
    key_ = std::move(key);
    return true;
  }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    // "[json.exception.parse_error.101] parse error at line 1, column 2: ..." and what follows is
    // the library's own wording.
    // 406 is the library's number for a number that no double holds.
    if (error.id == 406) {
      error_ = absl::StrCat("has a number beyond the range of a double before byte ", position);
      return false;
    }
    std::string what = error.what();
    const size_t end = what.find("] ");
    error_ = absl::StrCat("is not JSON at byte ", position, ": ",
                          Excerpt(what.substr(end == std::string::npos ? 0 : end + 2), 200));
    return false;
  }

  absl::StatusOr<json> Take() {
    if (!error_.empty()) return absl::InvalidArgumentError(error_);
    return std::move(root_);
  }

 private:
  template <typename T>
  bool Value(T&& value) {
    Place(json(std::forward<T>(value)));
    return true;
  }
  json* Place(json value) {
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    json& parent = *open_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return &parent.back();
    }
    return &(parent[key_] = std::move(value));
  }
  bool Open(json value) {
    if (open_.size() >= static_cast<size_t>(kMaxJsonDepth)) {
      error_ = absl::StrCat("is nested deeper than ", kMaxJsonDepth, " levels");
      return false;
    }
    open_.push_back(Place(std::move(value)));
    return true;
  }
  bool Close() {
    open_.pop_back();
    return true;
  }

  json root_;
  // From the root inwards. Pointers stay valid: only the innermost container grows.
  std::vector<json*> open_;
  std::string key_;
  std::string error_;
};

}  // namespace

absl::StatusOr<json> ParseStrictJson(std::string_view text) {
  StrictSax sax;
  json::sax_parse(text.begin(), text.end(), &sax);
  return sax.Take();
}

}  // namespace conclave::gateway
