#include "shared/base/json_writer.h"

#include "shared/base/utf8.h"

namespace conclave {

namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

bool IsPlain(uint8_t c) { return c >= 0x20 && c < 0x80 && c != '"' && c != '\\'; }

void AppendEscaped(uint8_t c, std::string* json) {
  constexpr char kDigits[] = "0123456789abcdef";
  switch (c) {
    case '"':
      json->append("\\\"");
      return;
    case '\\':
      json->append("\\\\");
      return;
    case '\b':
      json->append("\\b");
      return;
    case '\f':
      json->append("\\f");
      return;
    case '\n':
      json->append("\\n");
      return;
    case '\r':
      json->append("\\r");
      return;
    case '\t':
      json->append("\\t");
      return;
    default:
      json->append("\\u00");
      json->push_back(kDigits[c >> 4]);
      json->push_back(kDigits[c & 15]);
  }
}

}  // namespace

void AppendJsonString(std::string_view text, std::string* json) {
  json->push_back('"');
  size_t copied = 0;  // all before it is in `json`
  const auto copy_to = [&](size_t end) {
    json->append(text.substr(copied, end - copied));
    copied = end;
  };
  for (size_t at = 0; at < text.size();) {
    const auto c = static_cast<uint8_t>(text[at]);
    if (IsPlain(c)) {
      ++at;
      continue;
    }
    if (c < 0x80) {
      copy_to(at);
      AppendEscaped(c, json);
      copied = ++at;
      continue;
    }
    const Utf8Sequence sequence = Utf8SequenceAt(text, at);
    if (!sequence.whole) {
      copy_to(at);
      json->append(kReplacement);
      copied = at + sequence.num_bytes;
    }
    at += sequence.num_bytes;
  }
  copy_to(text.size());
  json->push_back('"');
}

void JsonWriter::Name(std::string_view name) {
  Separate();
  json_->append(1, '"').append(name).append("\":");
  comma_ = false;
}

void JsonWriter::Value(std::string_view text) {
  Separate();
  AppendJsonString(text, json_);
}

void JsonWriter::Raw(std::string_view json) {
  Separate();
  json_->append(json);
}

void JsonWriter::Open(char bracket) {
  Separate();
  json_->push_back(bracket);
  comma_ = false;
}

void JsonWriter::Close(char bracket) {
  json_->push_back(bracket);
  comma_ = true;
}

}  // namespace conclave
