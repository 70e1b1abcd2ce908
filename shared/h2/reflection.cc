#include "shared/h2/reflection.h"

#include <cstdint>
#include <memory>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/descriptor.pb.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/wire_format_lite.h"
#include "shared/h2/grpc_wire.h"

namespace conclave::h2 {
namespace {

using google::protobuf::DescriptorPool;
using google::protobuf::FileDescriptor;
using google::protobuf::internal::WireFormatLite;

constexpr char kName[] = "grpc.reflection.v1alpha.ServerReflection";

// Fields of ServerReflectionRequest and ServerReflectionResponse.
enum RequestField {
  kFileByFilename = 3,
  kFileContainingSymbol = 4,
  kFileContainingExtension = 5,
  kAllExtensionNumbersOfType = 6,
  kListServices = 7,
};
enum ResponseField {
  kOriginalRequest = 2,
  kFileDescriptorResponse = 4,
  kListServicesResponse = 6,
  kErrorResponse = 7,
};

void AppendField(int number, std::string_view value, std::string* bytes) {
  AppendVarint(WireFormatLite::MakeTag(number, WireFormatLite::WIRETYPE_LENGTH_DELIMITED), bytes);
  AppendVarint(value.size(), bytes);
  bytes->append(value);
}

// What is asked: the last field of those above, since they are one of.
struct Question {
  int field = 0;
  std::string value;
};
bool Parse(std::string_view bytes, Question* question) {
  google::protobuf::io::CodedInputStream input(reinterpret_cast<const uint8_t*>(bytes.data()),
                                               static_cast<int>(bytes.size()));
  while (const uint32_t tag = input.ReadTag()) {
    const int field = WireFormatLite::GetTagFieldNumber(tag);
    const bool asks =
        field >= kFileByFilename && field <= kListServices &&
        WireFormatLite::GetTagWireType(tag) == WireFormatLite::WIRETYPE_LENGTH_DELIMITED;
    if (asks) question->field = field;
    if (asks ? !WireFormatLite::ReadBytes(&input, &question->value)
             : !WireFormatLite::SkipField(&input, tag)) {
      return false;
    }
  }
  return input.ConsumedEntireMessage();
}

std::string ErrorOf(absl::StatusCode code, std::string_view message) {
  std::string error;
  AppendVarint(WireFormatLite::MakeTag(1, WireFormatLite::WIRETYPE_VARINT), &error);
  AppendVarint(static_cast<uint64_t>(code), &error);
  AppendField(2, message, &error);
  return error;
}

// The file and all it imports.
void AppendFiles(const FileDescriptor& file, std::set<std::string>* seen, std::string* bytes) {
  if (!seen->insert(file.name()).second) return;
  google::protobuf::FileDescriptorProto text;
  file.CopyTo(&text);
  AppendField(1, text.SerializeAsString(), bytes);
  for (int i = 0; i < file.dependency_count(); ++i) {
    AppendFiles(*file.dependency(i), seen, bytes);
  }
}

class ReflectionCall final : public ServerCall {
 public:
  explicit ReflectionCall(std::shared_ptr<const std::vector<std::string>> services)
      : services_(std::move(services)) {}

  void OnMessage(std::string_view bytes) override {
    Question question;
    if (!Parse(bytes, &question)) {
      Finish(absl::InvalidArgumentError("the request is not a ServerReflectionRequest"));
      return;
    }
    std::string response;
    AppendField(kOriginalRequest, bytes, &response);
    AppendAnswer(question, &response);
    WriteBytes(response);
  }
  bool idle() override { return true; }
  void OnHalfClose() override { Finish(absl::OkStatus()); }
  void OnCancel() override {}

 private:
  void AppendAnswer(const Question& question, std::string* response) const {
    const DescriptorPool& pool = *DescriptorPool::generated_pool();
    const FileDescriptor* file = nullptr;
    switch (question.field) {
      case kListServices: {
        std::string list;
        for (const std::string& service : *services_) {
          std::string entry;
          AppendField(1, service, &entry);
          AppendField(1, entry, &list);
        }
        AppendField(kListServicesResponse, list, response);
        return;
      }
      case kFileByFilename:
        file = pool.FindFileByName(question.value);
        break;
      case kFileContainingSymbol:
        file = pool.FindFileContainingSymbol(question.value);
        break;
      default:  // extensions, of which there are none, or nothing
        AppendField(kErrorResponse,
                    ErrorOf(absl::StatusCode::kUnimplemented,
                            "ask for list_services, file_by_filename or file_containing_symbol"),
                    response);
        return;
    }
    if (!file) {
      AppendField(kErrorResponse,
                  ErrorOf(absl::StatusCode::kNotFound,
                          absl::StrCat("\"", question.value, "\" is not known")),
                  response);
      return;
    }
    std::set<std::string> seen;
    std::string files;
    AppendFiles(*file, &seen, &files);
    AppendField(kFileDescriptorResponse, files, response);
  }

  const std::shared_ptr<const std::vector<std::string>> services_;
};

}  // namespace

Service ReflectionService(std::vector<std::string> services) {
  services.push_back(kName);
  const auto shared = std::make_shared<const std::vector<std::string>>(std::move(services));
  return {.name = kName, .methods = {{"ServerReflectionInfo", [shared](const CallStart&) {
                                        return std::make_shared<ReflectionCall>(shared);
                                      }}}};
}

}  // namespace conclave::h2
