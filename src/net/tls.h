// The server's TLS context from its certificate and key files.
#pragma once

#include <memory>
#include <string>

#include "base/result.h"

namespace boost::asio::ssl {
class context;
}

namespace kvasir {

struct TlsFiles {
  std::string certificate;  // PEM: the server's own first, then its chain
  std::string key;          // PEM, not encrypted
};

// TLS 1.2 and 1.3, no renegotiation, no client certificates. kIo: a file cannot be read. kInvalid: it is not
// what it should be, or the key does not belong to the certificate. The message names the file.
Result<std::shared_ptr<boost::asio::ssl::context>> make_tls_context(const TlsFiles& files);

}  // namespace kvasir
