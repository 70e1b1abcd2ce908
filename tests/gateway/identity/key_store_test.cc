#include "services/gateway/identity/key_store.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>

#include "shared/rpc/status.h"
#include "tests/support/temp_dir.h"

namespace conclave::gateway {
namespace {

using identity::DrawKey;
using identity::DrawnKey;
using identity::KeyFile;

class KeyStoreTest : public ::testing::Test {
 protected:
  DrawnKey Add(const std::string& tenant) {
    DrawnKey drawn = DrawKey();
    drawn.record.tenant = tenant;
    file_.keys.push_back(drawn.record);
    return drawn;
  }
  void Open() {
    Write();
    auto store = KeyStore::Open(path_, &clock_, &registry_);
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }
  void Write() { ASSERT_TRUE(identity::WriteKeyFile(path_, file_).ok()); }
  absl::StatusOr<std::shared_ptr<const Principal>> Show(const std::string& key) {
    return store_->Authenticate(key.empty() ? "" : "Bearer " + key);
  }
  std::string ReasonFor(const std::string& key) {
    return rpc::DetailsOf(Show(key).status()).reason;
  }

  testing::TempDir dir_;
  const std::string path_ = dir_.path() / "keys.json";
  SimulatedClock clock_;
  metrics::Registry registry_;
  KeyFile file_;
  std::unique_ptr<KeyStore> store_;
};

TEST_F(KeyStoreTest, WithoutAFileEverybodyMayCome) {
  const auto store = KeyStore::Open("", &clock_, &registry_);
  ASSERT_TRUE(store.ok());
  EXPECT_FALSE((*store)->required());
  for (const char* header : {"", "Bearer x", "Basic y"}) {
    EXPECT_EQ((*(*store)->Authenticate(header))->tenant.name, "") << header;
  }
}

TEST_F(KeyStoreTest, RefusesToStartOnABadFile) {
  EXPECT_TRUE(absl::IsNotFound(KeyStore::Open(path_, &clock_, &registry_).status()));
  std::ofstream(path_) << "{}";
  EXPECT_TRUE(absl::IsInvalidArgument(KeyStore::Open(path_, &clock_, &registry_).status()));
}

TEST_F(KeyStoreTest, KnowsTheTenantOfAKey) {
  file_.tenants.push_back({.name = "acme", .weight = 3, .top_class = QosClass::kBatch});
  const DrawnKey acme = Add("acme"), other = Add("other");
  Open();
  const auto principal = Show(acme.text);
  ASSERT_TRUE(principal.ok()) << principal.status();
  EXPECT_EQ((*principal)->tenant.name, "acme");
  EXPECT_EQ((*principal)->tenant.weight, 3);
  EXPECT_EQ((*principal)->tenant.top_class, QosClass::kBatch);
  EXPECT_EQ((*principal)->key_id, acme.record.id);
  EXPECT_EQ((*Show(other.text))->tenant.weight, 1);
  EXPECT_TRUE(store_->Authenticate("bearer " + acme.text).ok()) << "schemes have no case";
}

TEST_F(KeyStoreTest, SaysWhyAKeyIsRefused) {
  DrawnKey good = Add("a");
  DrawnKey revoked = Add("a");
  file_.keys.back().revoked_unix_s = 1;
  DrawnKey expired = Add("a");
  file_.keys.back().expires_unix_s = 1;
  Open();
  EXPECT_EQ(ReasonFor(""), "KEY_MISSING");
  EXPECT_EQ(ReasonFor("sk-something"), "KEY_UNKNOWN");
  EXPECT_EQ(ReasonFor(DrawKey().text), "KEY_UNKNOWN");
  EXPECT_EQ(ReasonFor(revoked.text), "KEY_REVOKED");
  EXPECT_EQ(ReasonFor(expired.text), "KEY_EXPIRED");
  // Another one's secret under this id: no word about the key's state.
  const std::string forged = revoked.text.substr(0, 12) + good.text.substr(12);
  EXPECT_EQ(ReasonFor(forged), "KEY_UNKNOWN");
  EXPECT_TRUE(absl::IsUnauthenticated(Show("x").status()));
  EXPECT_EQ(rpc::DetailsOf(store_->Authenticate("Basic " + good.text).status()).reason,
            "KEY_UNKNOWN");
}

TEST_F(KeyStoreTest, FollowsItsFile) {
  const DrawnKey first = Add("a");
  file_.keys.back().requests_per_minute = 10;
  Open();
  EXPECT_TRUE((*Show(first.text))->limit->TakeRequest(clock_.Now()).ok());
  const DrawnKey second = Add("b");
  EXPECT_EQ(ReasonFor(second.text), "KEY_UNKNOWN");
  Write();
  store_->Refresh();
  EXPECT_TRUE(Show(second.text).ok());
  EXPECT_EQ((*Show(first.text))->limit->requests(clock_.Now()).remaining, 9) << "used stays used";
  file_.keys[0].revoked_unix_s = 1;
  Write();
  store_->Refresh();
  EXPECT_EQ(ReasonFor(first.text), "KEY_REVOKED");
  std::ofstream(path_) << "half a fi";
  store_->Refresh();
  EXPECT_TRUE(Show(second.text).ok()) << "the keys of before stay";
  std::filesystem::remove(path_);
  store_->Refresh();
  EXPECT_TRUE(Show(second.text).ok());
  Write();
  store_->Refresh();
  EXPECT_TRUE(Show(second.text).ok());
}

// What Refresh says; as another user than root, who may read everything.
std::string RefreshAsAnybody(KeyStore& store) {
  const bool root = geteuid() == 0;
  if (root) {
    EXPECT_EQ(seteuid(65534), 0);
  }
  ::testing::internal::CaptureStderr();
  store.Refresh();
  if (root) {
    EXPECT_EQ(seteuid(0), 0);
  }
  return ::testing::internal::GetCapturedStderr();
}

TEST_F(KeyStoreTest, ReadsAFileAgainThatItMayReadAtLast) {
  const DrawnKey key = Add("a");
  Open();
  ASSERT_EQ(chmod(dir_.path().c_str(), 0755), 0);
  file_.keys[0].revoked_unix_s = 1;
  Write();
  ASSERT_EQ(chmod(path_.c_str(), 0), 0);
  EXPECT_NE(RefreshAsAnybody(*store_).find("cannot be used"), std::string::npos);
  EXPECT_EQ(RefreshAsAnybody(*store_), "") << "each fault is told once";
  EXPECT_TRUE(Show(key.text).ok());
  EXPECT_NE(registry_.Expose().find(R"(conclave_file_faulty{use="keys"} 1)"), std::string::npos);
  ASSERT_EQ(chmod(path_.c_str(), 0644), 0);
  RefreshAsAnybody(*store_);
  EXPECT_EQ(ReasonFor(key.text), "KEY_REVOKED");
  EXPECT_NE(registry_.Expose().find(R"(conclave_file_faulty{use="keys"} 0)"), std::string::npos);
  EXPECT_EQ(RefreshAsAnybody(*store_), "") << "nothing has changed since";
}

TEST_F(KeyStoreTest, TellsTheFaultOfEachChange) {
  const DrawnKey key = Add("a");
  Open();
  ASSERT_EQ(chmod(dir_.path().c_str(), 0755), 0);
  for (const char* const rubbish : {"half", "half of another"}) {
    std::ofstream(path_) << rubbish;
    ASSERT_EQ(chmod(path_.c_str(), 0644), 0);
    EXPECT_NE(RefreshAsAnybody(*store_).find("is no JSON object"), std::string::npos) << rubbish;
    EXPECT_EQ(RefreshAsAnybody(*store_), "");
  }
  EXPECT_TRUE(Show(key.text).ok());
}

TEST_F(KeyStoreTest, ChoosesAClassForWhoNamesNone) {
  Principal principal;
  EXPECT_EQ(ClassFor(principal, std::nullopt), QosClass::kInteractive);
  EXPECT_EQ(ClassFor(principal, QosClass::kRealtime), QosClass::kRealtime);
  principal.classes = {QosClass::kSheddable, QosClass::kBatch};
  EXPECT_EQ(ClassFor(principal, std::nullopt), QosClass::kBatch);
  EXPECT_EQ(ClassFor(principal, QosClass::kRealtime), QosClass::kRealtime) << "and is refused";
  principal.classes = {QosClass::kRealtime, QosClass::kInteractive, QosClass::kBatch};
  EXPECT_EQ(ClassFor(principal, std::nullopt), QosClass::kInteractive);
  principal.tenant.top_class = QosClass::kBatch;
  EXPECT_EQ(ClassFor(principal, std::nullopt), QosClass::kBatch);
  principal.classes = {QosClass::kRealtime};
  EXPECT_EQ(ClassFor(principal, std::nullopt), QosClass::kRealtime) << "it may use no other";
}

TEST_F(KeyStoreTest, AllowsModelsAndClasses) {
  Principal principal;
  EXPECT_TRUE(MayUse(principal, "tales", QosClass::kRealtime).ok());
  principal.models = {"tales", "fables"};
  principal.classes = {QosClass::kBatch};
  EXPECT_TRUE(MayUse(principal, "tales", QosClass::kBatch).ok());
  EXPECT_TRUE(absl::IsPermissionDenied(MayUse(principal, "other", QosClass::kBatch)));
  const absl::Status denied = MayUse(principal, "tales", QosClass::kRealtime);
  EXPECT_NE(denied.message().find("classes batch, not realtime"), absl::string_view::npos);
}

}  // namespace
}  // namespace conclave::gateway
