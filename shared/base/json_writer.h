// JSON appended to a string as it is said, without a tree of it first.
//
// For answers that are made many times a second. The caller says members and values in order, and
// closes what it opens. One thread.
#pragma once

#include <concepts>
#include <cstdint>
#include <string>
#include <string_view>

namespace conclave {

// Appends `text` between quotes, escaped as RFC 8259 (section 7) demands and no further. Each part
// that is not UTF-8 (the longest beginning of a character, or one byte) becomes U+FFFD.
void AppendJsonString(std::string_view text, std::string* json);

class JsonWriter {
 public:
  // Appends to `json`, which outlives this.
  explicit JsonWriter(std::string* json) : json_(json) {}

  void BeginObject() { Open('{'); }
  void EndObject() { Close('}'); }
  void BeginArray() { Open('['); }
  void EndArray() { Close(']'); }
  // The name of the member whose value follows; plain ASCII without quotes.
  void Name(std::string_view name);

  void Value(std::string_view text);
  void Value(const std::string& text) { Value(std::string_view(text)); }
  void Value(const char* text) { Value(std::string_view(text)); }
  template <std::integral Number>
  void Value(Number value) {
    if constexpr (std::same_as<Number, bool>) {
      Raw(value ? "true" : "false");
    } else {
      Raw(std::to_string(value));
    }
  }
  void Null() { Raw("null"); }
  // JSON made elsewhere.
  void Raw(std::string_view json);

  template <typename T>
  void Member(std::string_view name, const T& value) {
    Name(name);
    Value(value);
  }

 private:
  void Open(char bracket);
  void Close(char bracket);
  void Separate() {
    if (comma_) json_->push_back(',');
    comma_ = true;
  }

  std::string* const json_;
  bool comma_ = false;  // before the next member or value
};

}  // namespace conclave
