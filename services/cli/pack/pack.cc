// `conclave pack`: writes a model into one file, in the kernels' order; or checks such a file.
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>

#include "CLI/CLI.hpp"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "nlohmann/json.hpp"
#include "services/cli/command.h"
#include "services/cli/format_flags.h"
#include "services/cli/interrupt.h"
#include "services/cli/pack/known_shapes.h"
#include "services/cli/pack/plain_tokenizer.h"
#include "services/cli/table.h"
#include "shared/base/byte_size.h"
#include "shared/base/json_file.h"
#include "shared/base/limits.h"
#include "shared/base/status_macros.h"
#include "shared/weights/checkpoint.h"
#include "shared/weights/model_files.h"
#include "shared/weights/packed_model.h"
#include "shared/weights/packer.h"
#include "shared/weights/random_tensors.h"

namespace conclave::cli {
namespace {

namespace fs = std::filesystem;
using std::chrono::steady_clock;

constexpr auto kTellEvery = std::chrono::milliseconds(500);
constexpr uint64_t kMaxTextBytes = 256u << 20;

// "61 %, 1.2 GiB/s" on standard error, for what takes longer than a moment.
class ProgressLine {
 public:
  void Tell(uint64_t done, uint64_t total) {
    const auto now = steady_clock::now();
    if (now - told_ < kTellEvery || total == 0) return;
    told_ = now;
    const double seconds = std::chrono::duration<double>(now - began_).count();
    std::fprintf(stderr, "%s%3.0f %% of %s, %s/s%s", terminal_ ? "\r\033[K" : "",
                 100 * static_cast<double>(done) / static_cast<double>(total),
                 FormatBytes(static_cast<int64_t>(total)).c_str(),
                 FormatBytes(static_cast<int64_t>(static_cast<double>(done) / seconds)).c_str(),
                 terminal_ ? "" : "\n");
    open_ = terminal_;
  }
  ~ProgressLine() {
    if (open_) std::fprintf(stderr, "\r\033[K");
  }
  double seconds() const {
    return std::chrono::duration<double>(steady_clock::now() - began_).count();
  }

 private:
  const bool terminal_ = isatty(STDERR_FILENO) != 0;
  const steady_clock::time_point began_ = steady_clock::now();
  steady_clock::time_point told_ = began_;
  bool open_ = false;
};

// A model to be packed, and what it is made of.
struct Source {
  std::shared_ptr<const weights::StoredModel> stored;
  weights::ModelConfig config;  // of random weights
  std::unique_ptr<weights::RandomTensors> random;
  weights::PackInput input;
};

class PackCommand final : public Command {
 public:
  const char* name() const override { return "pack"; }
  const char* summary() const override { return "write a model into one file that is served fast"; }
  void AddFlags(CLI::App& app) override {
    app.add_option("CHECKPOINT", checkpoint_,
                   "checkpoint folder, or org/name in the Hugging Face cache");
    app.add_option("--out", out_, "the file to write")->type_name("FILE");
    AddFormatFlags(app, &formats_);
    app.add_flag("--replace", replace_, "write over a file that is there");
    app.add_option("--threads", threads_, "0: one a core")
        ->check(CLI::Range(0, 1024))
        ->option_text("N [0]");
    app.add_option("--random", random_,
                   absl::StrCat("instead of a checkpoint: random weights of a shape, for "
                                "benchmarks: ",
                                absl::StrJoin(KnownShapes(), ", ",
                                              [](std::string* out, std::string_view name) {
                                                out->append(name);
                                              }),
                                ", or a config.json"))
        ->type_name("SHAPE");
    app.add_option("--layers", layers_, "of random weights: fewer than the shape has")
        ->check(CLI::Range(1, 4096))
        ->option_text("N");
    app.add_option("--verify", verify_, "check every byte of a packed file instead")
        ->type_name("FILE");
    app.add_flag("--json", json_, "print one JSON object");
  }
  int Run(const Context& context) override;

 private:
  absl::Status CheckFlags() const;
  absl::StatusOr<std::unique_ptr<Source>> Open(const weights::WeightFormats& formats,
                                               bool strict) const;
  absl::Status OpenRandom(Source& source) const;
  absl::Status OpenCheckpoint(Source& source, const weights::WeightFormats& formats,
                              bool strict) const;
  absl::Status Write(bool strict);
  absl::Status Verify();
  int threads() const { return threads_ > 0 ? threads_ : ReadCpuLimit().cores; }

  std::string checkpoint_, out_, random_, verify_;
  FormatFlags formats_;
  int layers_ = 0;
  int threads_ = 0;
  bool replace_ = false;
  bool json_ = false;
};

absl::Status PackCommand::CheckFlags() const {
  const int things = !checkpoint_.empty() + !random_.empty() + !verify_.empty();
  if (things != 1) {
    return absl::InvalidArgumentError(
        "give a checkpoint to pack, or --random SHAPE, or --verify FILE, and one of them only");
  }
  if (verify_.empty() && out_.empty()) return absl::InvalidArgumentError("--out FILE is missing");
  if (layers_ > 0 && random_.empty()) {
    return absl::InvalidArgumentError("--layers goes with --random alone");
  }
  return absl::OkStatus();
}

absl::Status PackCommand::OpenRandom(Source& source) const {
  std::string text(KnownShape(random_));
  if (text.empty()) {
    fs::path path = random_;
    std::error_code error;
    if (fs::is_directory(path, error)) path /= "config.json";
    auto read = ReadRegularFile(path.string(), kMaxJsonFileBytes);
    if (absl::IsNotFound(read.status())) {
      return absl::NotFoundError(absl::StrCat(
          "--random is \"", random_, "\", which is neither a known shape (",
          absl::StrJoin(KnownShapes(), ", ",
                        [](std::string* out, std::string_view name) { out->append(name); }),
          ") nor a config.json"));
    }
    RETURN_IF_ERROR(read.status());
    text = *std::move(read);
  }
  if (layers_ > 0) {
    ASSIGN_OR_RETURN(nlohmann::json config, ParseJson(random_, text));
    const auto found = config.is_object() ? config.find("num_hidden_layers") : config.end();
    if (found != config.end() && found->is_number_integer() && layers_ > *found) {
      return absl::InvalidArgumentError(
          absl::StrCat("--layers is ", layers_, " and ", random_, " has ", found->get<int64_t>()));
    }
    if (config.is_object()) config["num_hidden_layers"] = layers_;
    text = config.dump(2) + "\n";
  }
  std::vector<std::string> warnings;
  ASSIGN_OR_RETURN(source.config, weights::ParseModelConfig(random_, text, {}, &warnings));
  source.random = std::make_unique<weights::RandomTensors>(source.config);
  source.input.config = &source.config;
  source.input.tensors = source.random.get();
  source.input.texts = {{"config.json", text}};
  if (source.config.vocab_size < kFewestPlainIds) {
    std::fprintf(stderr,
                 "warning: vocab_size is %d, too few for a tokenizer of bytes: a gateway cannot "
                 "serve what is packed\n",
                 source.config.vocab_size);
    return absl::OkStatus();
  }
  for (auto& text_file : PlainTokenizer(source.config.vocab_size)) {
    source.input.texts.push_back(std::move(text_file));
  }
  return absl::OkStatus();
}

// That the config that travels is the one the fingerprint covers, and the tokenizer is there.
absl::Status CheckTexts(const weights::PackInput& input, const weights::Checkpoint& checkpoint) {
  bool has_tokenizer = false;
  for (const auto& [name, text] : input.texts) {
    has_tokenizer = has_tokenizer || name == "tokenizer.json";
    if (name != "config.json") continue;
    const std::string where = (checkpoint.path() / name).string();
    std::vector<std::string> warnings;
    ASSIGN_OR_RETURN(const weights::ModelConfig config,
                     weights::ParseModelConfig(where, text, {}, &warnings));
    if (NormalisedConfigText(config) != NormalisedConfigText(checkpoint.config())) {
      return absl::AbortedError(
          absl::StrCat(where, " was changed while it was read; pack again when it is finished"));
    }
  }
  if (!has_tokenizer) {
    std::fprintf(stderr,
                 "warning: %s has no tokenizer.json: a gateway cannot serve what is packed of it\n",
                 checkpoint.path().c_str());
  }
  return absl::OkStatus();
}

absl::Status PackCommand::OpenCheckpoint(Source& source, const weights::WeightFormats& formats,
                                         bool strict) const {
  ASSIGN_OR_RETURN(const fs::path path, weights::ResolveModel(checkpoint_));
  ASSIGN_OR_RETURN(source.stored, weights::OpenModel(path, {.strict = strict}));
  const weights::Checkpoint* checkpoint = source.stored->checkpoint();
  if (checkpoint == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(path.string(), " is packed already, as ",
                                                   source.stored->StoredAs(),
                                                   "; pack the checkpoint it was made from"));
  }
  for (const std::string& warning : checkpoint->warnings()) {
    std::fprintf(stderr, "warning: %s\n", warning.c_str());
  }
  source.input.config = &checkpoint->config();
  source.input.tensors = checkpoint;
  source.input.fingerprint = checkpoint->Fingerprint(formats.Label());
  source.input.check_unchanged = [checkpoint] { return checkpoint->CheckUnchanged(); };
  ASSIGN_OR_RETURN(const weights::ModelFiles files, weights::ModelFiles::Open(path));
  ASSIGN_OR_RETURN(const std::vector<std::string> names, weights::FilesToPack(path));
  for (const std::string& name : names) {
    ASSIGN_OR_RETURN(std::string text, files.Read(name, kMaxTextBytes));
    source.input.texts.emplace_back(name, std::move(text));
  }
  return CheckTexts(source.input, *checkpoint);
}

absl::StatusOr<std::unique_ptr<Source>> PackCommand::Open(const weights::WeightFormats& formats,
                                                          bool strict) const {
  auto source = std::make_unique<Source>();
  if (random_.empty()) {
    RETURN_IF_ERROR(OpenCheckpoint(*source, formats, strict));
  } else {
    RETURN_IF_ERROR(OpenRandom(*source));
    source->input.fingerprint = source->random->Fingerprint(formats.Label());
  }
  return source;
}

absl::Status PackCommand::Write(bool strict) {
  ASSIGN_OR_RETURN(const weights::WeightFormats formats, ParseFormats(formats_));
  ASSIGN_OR_RETURN(const std::unique_ptr<Source> source, Open(formats, strict));
  ASSIGN_OR_RETURN(const weights::PackedIndex index, weights::PlanPack(source->input, formats));
  StopSignals signals;  // before any thread, which would be ended by them
  kernels::ThreadPool pool(threads());
  double seconds = 0;
  {
    const InterruptFlag interrupt(signals);
    ProgressLine line;
    RETURN_IF_ERROR(weights::Pack(source->input, out_,
                                  {.formats = formats,
                                   .replace = replace_,
                                   .pool = &pool,
                                   .progress = [&](uint64_t done, uint64_t total) {
                                     line.Tell(done, total);
                                     return !interrupt.interrupted();
                                   }}));
    seconds = line.seconds();
  }
  const auto bytes = static_cast<int64_t>(index.file_bytes);
  if (json_) {
    const nlohmann::json told = {{"file", out_},
                                 {"format", formats.Label()},
                                 {"bytes", bytes},
                                 {"tensors", index.entries.size()},
                                 {"fingerprint", index.fingerprint},
                                 {"seconds", seconds}};
    std::printf("%s\n", told.dump(2).c_str());
  } else {
    std::printf("%s: %s, %s, %s in %s (%s/s), fingerprint %s\n", out_.c_str(),
                formats.Label().c_str(),
                Count(static_cast<int64_t>(index.entries.size()), "tensor").c_str(),
                FormatBytes(bytes).c_str(), FormatSeconds(seconds).c_str(),
                FormatBytes(static_cast<int64_t>(static_cast<double>(bytes) / seconds)).c_str(),
                index.fingerprint.substr(0, 12).c_str());
  }
  return absl::OkStatus();
}

absl::Status PackCommand::Verify() {
  ASSIGN_OR_RETURN(const auto model, weights::PackedModel::Open(verify_, {}));
  double seconds = 0;
  {
    ProgressLine line;
    RETURN_IF_ERROR(model->file().VerifyAll(
        threads(), [&](uint64_t done, uint64_t total) { line.Tell(done, total); }));
    seconds = line.seconds();
  }
  const weights::PackedIndex& index = model->file().index();
  const auto bytes = static_cast<int64_t>(index.file_bytes);
  if (json_) {
    const nlohmann::json told = {{"file", verify_},   {"format", index.numerics},
                                 {"bytes", bytes},    {"tensors", index.entries.size()},
                                 {"intact", true},    {"fingerprint", index.fingerprint},
                                 {"seconds", seconds}};
    std::printf("%s\n", told.dump(2).c_str());
  } else {
    std::printf("%s is intact: %s, %s, %s, fingerprint %s\n", verify_.c_str(),
                index.numerics.c_str(),
                Count(static_cast<int64_t>(index.entries.size()), "tensor").c_str(),
                FormatBytes(bytes).c_str(), index.fingerprint.substr(0, 12).c_str());
  }
  return absl::OkStatus();
}

int PackCommand::Run(const Context& context) {
  absl::Status status = CheckFlags();
  if (status.ok()) {
    status = verify_.empty() ? Write(context.options.common.strict_config) : Verify();
  }
  if (absl::IsCancelled(status)) {
    std::fprintf(stderr, "interrupted; nothing was written\n");
    return kExitInterrupted;
  }
  if (absl::IsAlreadyExists(status) && !replace_) {
    return Fail(absl::AlreadyExistsError(absl::StrCat(status.message(), ": --replace")));
  }
  if (absl::IsFailedPrecondition(status)) {  // which of other commands says that no cluster runs
    Fail(status);
    return kExitFailed;
  }
  return status.ok() ? kExitOk : Fail(status);
}

}  // namespace

std::unique_ptr<Command> MakePackCommand() { return std::make_unique<PackCommand>(); }

}  // namespace conclave::cli
