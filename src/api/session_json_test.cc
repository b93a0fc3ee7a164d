// Bodies of /v1/sessions.
#include "api/session_json.h"

#include "api/api_fixture_test.h"

namespace kvasir {
namespace {

TEST(Sessions, AreChosenByIdPrefixOrPrompt) {
  EXPECT_EQ(parse_session_choice(R"({"id":"a.b:c-1_"})", {})->id, "a.b:c-1_");
  EXPECT_EQ(parse_session_choice(R"({"id_prefix":"agent-"})", {})->id_prefix, "agent-");
  auto prompt = parse_session_choice(R"({"messages":[{"role":"user","content":"q"}]})", {});
  ASSERT_TRUE(prompt && prompt->prompt);
  EXPECT_EQ(prompt->prompt->conversation.messages.size(), 1u);
}

TEST(Sessions, AreNotChosenByNothingOrTwoThings) {
  for (std::string_view body : {"{}", R"({"id":"a","id_prefix":"b"})"}) {
    EXPECT_EQ(parse_session_choice(body, {}).error().message,
              "body: expected exactly one of \"id\", \"id_prefix\" and \"messages\"");
  }
  EXPECT_EQ(parse_session_choice(R"({"id":"../x"})", {}).error().message,
            "id: expected 1 to 128 letters, digits, -, _, . and :, saw \"../x\"");
}

TEST(Sessions, ForkNamesItsSourceAndWhere) {
  auto fork = parse_session_fork(R"({"id":"a","new_id":"b","at_tokens":256})", {});
  ASSERT_TRUE(fork);
  EXPECT_EQ(fork->id, "a");
  EXPECT_EQ(fork->new_id, "b");
  EXPECT_EQ(fork->at_tokens, 256);
  EXPECT_FALSE(parse_session_fork(R"({"new_id":"b"})", {}));
  EXPECT_FALSE(parse_session_fork(R"({"id":"a","at_tokens":0})", {}));
}

TEST(Sessions, PrintEveryField) {
  const SessionInfo session{.id = "s",
                            .model = "m",
                            .created = 1,
                            .last_used = 2,
                            .tokens = 3,
                            .bytes = 4,
                            .tier = CacheTier::kDisk,
                            .saved = true};
  const std::string object =
      R"({"id":"s","object":"session","model":"m","parent":null,"created":1,"last_used":2,"tokens":3,"bytes":4,)"
      R"("tier":"disk","saved":true})";
  EXPECT_EQ(session_body(session), object);
  EXPECT_EQ(session_list_body({session}), R"({"object":"list","data":[)" + object + "]}");
  EXPECT_EQ(session_saved_body({session}, 9),
            R"({"object":"session.saved","data":[)" + object + R"(],"written_bytes":9})");
  EXPECT_EQ(session_deleted_body({"a", "b"}, 5),
            R"({"object":"session.deleted","ids":["a","b"],"freed_bytes":5})");
}

}  // namespace
}  // namespace kvasir
