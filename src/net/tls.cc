// OpenSSL's errors are codes from deep inside; what the user can act on is which file and what it should have
// been.
#include "net/tls.h"

#include <fmt/format.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <unistd.h>

#include <boost/asio/ssl/context.hpp>
#include <cerrno>
#include <cstring>

namespace kvasir {
namespace {

namespace ssl = boost::asio::ssl;

std::string openssl_reason() {
  const unsigned long code = ERR_get_error();
  ERR_clear_error();
  const char* reason = ERR_reason_error_string(code);
  return reason ? reason : "unknown reason";
}

Status check_readable(const char* what, const std::string& path) {
  if (path.empty())
    return Error{ErrorCode::kInvalid, fmt::format("TLS needs a {} file, and none is given", what)};
  if (access(path.c_str(), R_OK) != 0) {
    return Error{ErrorCode::kIo,
                 fmt::format("{}: cannot read the TLS {}: {}", path, what, std::strerror(errno))};
  }
  return {};
}

// A handshake offers protocols only if the client asks; HTTP/1.1 is the one spoken here.
int choose_protocol(SSL*, const unsigned char** out, unsigned char* out_size, const unsigned char* in,
                    unsigned in_size, void*) {
  static constexpr unsigned char kHttp11[] = "\x08http/1.1";
  unsigned char* chosen = nullptr;
  if (SSL_select_next_proto(&chosen, out_size, kHttp11, sizeof(kHttp11) - 1, in, in_size) !=
      OPENSSL_NPN_NEGOTIATED) {
    return SSL_TLSEXT_ERR_NOACK;
  }
  *out = chosen;
  return SSL_TLSEXT_ERR_OK;
}

}  // namespace

Result<std::shared_ptr<ssl::context>> make_tls_context(const TlsFiles& files) {
  KVASIR_TRY_STATUS(check_readable("certificate", files.certificate));
  KVASIR_TRY_STATUS(check_readable("key", files.key));
  auto context = std::make_shared<ssl::context>(ssl::context::tls_server);
  SSL_CTX* native = context->native_handle();
  ERR_clear_error();
  SSL_CTX_set_min_proto_version(native, TLS1_2_VERSION);
  SSL_CTX_set_options(native,
                      SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_CIPHER_SERVER_PREFERENCE);
  SSL_CTX_set_mode(native, SSL_MODE_RELEASE_BUFFERS);  // an idle connection gives its 32 KB back
  SSL_CTX_set_alpn_select_cb(native, choose_protocol, nullptr);
  // Without this OpenSSL would ask for the password on the terminal.
  SSL_CTX_set_default_passwd_cb(native, [](char*, int, int, void*) { return -1; });

  if (SSL_CTX_use_certificate_chain_file(native, files.certificate.c_str()) != 1) {
    return Error{ErrorCode::kInvalid,
                 fmt::format("{}: not a PEM certificate ({})", files.certificate, openssl_reason())};
  }
  if (SSL_CTX_use_PrivateKey_file(native, files.key.c_str(), SSL_FILETYPE_PEM) != 1) {
    const unsigned long code = ERR_peek_error();
    // use_PrivateKey_file itself compares the two and fails on a key of the same kind that does not fit.
    if (ERR_GET_LIB(code) == ERR_LIB_X509) {
      ERR_clear_error();
      return Error{ErrorCode::kInvalid, fmt::format("{}: the key does not belong to the certificate in {}",
                                                    files.key, files.certificate)};
    }
    return Error{ErrorCode::kInvalid,
                 fmt::format("{}: not an unencrypted PEM key ({})", files.key, openssl_reason())};
  }
  if (SSL_CTX_check_private_key(native) != 1) {
    ERR_clear_error();
    return Error{ErrorCode::kInvalid, fmt::format("{}: the key does not belong to the certificate in {}",
                                                  files.key, files.certificate)};
  }
  return context;
}

}  // namespace kvasir
