// TLS: the same server behind a handshake, and what is said about files that do not fit.
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>

#include "net/server_fixture_test.h"

namespace kvasir {
namespace {

struct KeyDelete {
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
};
using Key = std::unique_ptr<EVP_PKEY, KeyDelete>;

// A folder with a self-signed certificate, its key, and another key.
class TlsFolder {
 public:
  TlsFolder() {
    char name[] = "/tmp/kvasir-tls-XXXXXX";
    path_ = mkdtemp(name);
    const Key key(EVP_EC_gen("P-256")), other(EVP_EC_gen("P-256")), rsa(EVP_RSA_gen(2048));
    write_key("key.pem", key.get(), nullptr);
    write_key("other.pem", other.get(), nullptr);
    write_key("rsa.pem", rsa.get(), nullptr);
    write_key("locked.pem", key.get(), "secret");
    X509* certificate = X509_new();
    ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1);
    X509_gmtime_adj(X509_getm_notBefore(certificate), -60);
    X509_gmtime_adj(X509_getm_notAfter(certificate), 3600);
    X509_set_pubkey(certificate, key.get());
    X509_NAME* subject = X509_get_subject_name(certificate);
    X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC,
                               reinterpret_cast<const unsigned char*>("localhost"), -1, -1, 0);
    X509_set_issuer_name(certificate, subject);
    X509_sign(certificate, key.get(), EVP_sha256());
    FILE* file = std::fopen(at("cert.pem").c_str(), "w");
    PEM_write_X509(file, certificate);
    std::fclose(file);
    X509_free(certificate);
    file = std::fopen(at("text.pem").c_str(), "w");
    std::fputs("not PEM\n", file);
    std::fclose(file);
  }
  ~TlsFolder() { std::filesystem::remove_all(path_); }

  std::string at(const std::string& name) const { return path_ + "/" + name; }

 private:
  void write_key(const std::string& name, EVP_PKEY* key, const char* password) {
    FILE* file = std::fopen(at(name).c_str(), "w");
    PEM_write_PrivateKey(file, key, password ? EVP_aes_128_cbc() : nullptr, nullptr, 0, nullptr,
                         const_cast<char*>(password));
    std::fclose(file);
  }
  std::string path_;
};

// A blocking TLS client on a TestClient's socket.
class TlsClient {
 public:
  explicit TlsClient(int port, int max_version = TLS1_3_VERSION)
      : socket_(port), context_(SSL_CTX_new(TLS_client_method())) {
    SSL_CTX_set_max_proto_version(context_, max_version);
    SSL_CTX_set_min_proto_version(context_, TLS1_VERSION);
    SSL_CTX_set_security_level(context_, 0);  // so that the server decides about old versions
    ssl_ = SSL_new(context_);
    SSL_set_alpn_protos(ssl_, reinterpret_cast<const unsigned char*>("\x02h2\x08http/1.1"), 12);
    SSL_set_fd(ssl_, socket_.fd());
    connected_ = SSL_connect(ssl_) == 1;
  }
  ~TlsClient() {
    SSL_free(ssl_);
    SSL_CTX_free(context_);
  }
  TlsClient(const TlsClient&) = delete;
  TlsClient& operator=(const TlsClient&) = delete;

  bool connected() const { return connected_; }
  int version() const { return SSL_version(ssl_); }
  std::string protocol() const {
    const unsigned char* name = nullptr;
    unsigned size = 0;
    SSL_get0_alpn_selected(ssl_, &name, &size);
    return std::string(reinterpret_cast<const char*>(name), size);
  }
  void send(std::string_view bytes) {
    EXPECT_EQ(SSL_write(ssl_, bytes.data(), static_cast<int>(bytes.size())), static_cast<int>(bytes.size()));
  }
  std::string read_until(std::string_view text) {
    std::string out;
    char buffer[4096];
    while (out.find(text) == std::string::npos) {
      const int n = SSL_read(ssl_, buffer, sizeof(buffer));
      if (n <= 0) break;
      out.append(buffer, static_cast<size_t>(n));
    }
    return out;
  }
  // How the next read ends: SSL_ERROR_ZERO_RETURN is an orderly end.
  int end() {
    char c;
    return SSL_get_error(ssl_, SSL_read(ssl_, &c, 1));
  }
  void close_orderly() { SSL_shutdown(ssl_); }
  TestClient& socket() { return socket_; }

 private:
  TestClient socket_;
  SSL_CTX* context_;
  SSL* ssl_;
  bool connected_ = false;
};

class Tls : public testing::Test {
 protected:
  HttpServerOptions with_tls() const {
    HttpServerOptions options;
    options.tls = TlsFiles{folder.at("cert.pem"), folder.at("key.pem")};
    return options;
  }
  TlsFolder folder;
};

TEST_F(Tls, ServesTheSameThroughAHandshake) {
  TestServer server(with_tls());
  EXPECT_EQ(server.server->url(), "https://127.0.0.1:" + std::to_string(server.port));
  for (const int version : {TLS1_2_VERSION, TLS1_3_VERSION}) {
    TlsClient client(server.port, version);
    ASSERT_TRUE(client.connected());
    EXPECT_EQ(client.version(), version);
    EXPECT_EQ(client.protocol(), "http/1.1");
    client.send("POST /who?1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
    EXPECT_NE(client.read_until("Host=localhost").find("|127.0.0.1|tls|"), std::string::npos);
    client.send(TestServer::get("/big?1000000"));
    EXPECT_EQ(client.read_until(std::string(1000000, 'b')).substr(0, 12), "HTTP/1.1 200");
    client.send(TestServer::get("/sse"));
    EXPECT_NE(client.read_until("0\r\n\r\n").find("data: two"), std::string::npos);
  }
}

TEST_F(Tls, EndsOrderlyAfterTheLastResponse) {
  TestServer server(with_tls());
  TlsClient client(server.port);
  client.send("GET /hello HTTP/1.0\r\n\r\n");
  client.read_until("hello\n");
  EXPECT_EQ(client.end(), SSL_ERROR_ZERO_RETURN);
}

TEST_F(Tls, NoticesAHangUpWhileNothingIsSent) {
  TestServer server(with_tls());
  TlsClient orderly(server.port), sudden(server.port);
  orderly.send(TestServer::get("/wait"));
  sudden.send(TestServer::get("/wait"));
  ASSERT_TRUE(server.waiting.reaches(2));
  orderly.close_orderly();
  EXPECT_TRUE(server.gone.reaches(1, 5s));
  sudden.socket().hang_up();
  EXPECT_TRUE(server.gone.reaches(2, 5s));
}

TEST_F(Tls, RefusesOldVersionsAndPlainText) {
  HttpServerOptions options = with_tls();
  options.limits.header_timeout = 200ms;
  TestServer server(std::move(options));
  EXPECT_FALSE(TlsClient(server.port, TLS1_1_VERSION).connected());
  TestClient plain = server.client();
  EXPECT_NE(plain.ask(TestServer::get("/hello")).status, 200);
  TestClient silent = server.client();
  EXPECT_TRUE(silent.closed(5s)) << "a handshake has a time limit too";
  EXPECT_EQ(server.handled.value(), 0);
}

TEST_F(Tls, SaysWhatIsWrongWithItsFiles) {
  const auto message = [&](const std::string& certificate, const std::string& key) {
    HttpServerOptions options;
    options.tls =
        TlsFiles{certificate.empty() ? "" : folder.at(certificate), key.empty() ? "" : folder.at(key)};
    const auto made = HttpServer::make(std::move(options),
                                       [](const HttpRequest&, ResponseWriter&) -> Task<> { co_return; });
    return made ? std::string("no error") : made.error().message;
  };
  EXPECT_EQ(message("none.pem", "key.pem"),
            folder.at("none.pem") + ": cannot read the TLS certificate: No such file or directory");
  EXPECT_EQ(message("cert.pem", "none.pem"),
            folder.at("none.pem") + ": cannot read the TLS key: No such file or directory");
  EXPECT_EQ(message("", "key.pem"), "TLS needs a certificate file, and none is given");
  EXPECT_EQ(message("text.pem", "key.pem").find(folder.at("text.pem") + ": not a PEM certificate ("), 0u);
  EXPECT_EQ(message("key.pem", "key.pem").find(folder.at("key.pem") + ": not a PEM certificate ("), 0u);
  EXPECT_EQ(message("cert.pem", "text.pem").find(folder.at("text.pem") + ": not an unencrypted PEM key ("),
            0u);
  EXPECT_EQ(
      message("cert.pem", "locked.pem").find(folder.at("locked.pem") + ": not an unencrypted PEM key ("), 0u);
  for (const char* key : {"other.pem", "rsa.pem"}) {
    EXPECT_EQ(message("cert.pem", key),
              folder.at(key) + ": the key does not belong to the certificate in " + folder.at("cert.pem"));
  }
  EXPECT_EQ(message("cert.pem", "key.pem"), "no error");
}

}  // namespace
}  // namespace kvasir
