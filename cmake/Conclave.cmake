# Compiler settings, third-party packages, and the helpers by which every folder declares its targets:
#   conclave_library(NAME n SRCS ... [DEPS ...])     target conclave_n, linked PUBLIC to DEPS
#   conclave_program(NAME n SRCS ... [DEPS ...])     an executable at the top of the build folder
#   conclave_test(NAME n SRCS ... [DEPS ...] [TIMEOUT s] [LABELS ...])   a GoogleTest program, run by ctest. Labels that
#     ci/sanitize.sh builds and runs: input (parses what others wrote: asan), threads (has threads, no gRPC: tsan). The
#     target tests-LABEL builds all tests of a label.
#   conclave_proto(NAME n PROTOS ...)                target conclave_n with messages and gRPC stubs

find_package(Threads REQUIRED)
find_package(Protobuf REQUIRED)
find_package(gRPC CONFIG REQUIRED)
find_package(absl CONFIG REQUIRED)
find_package(OpenSSL REQUIRED)
find_package(ZLIB REQUIRED)
find_package(Boost 1.74 REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(yaml-cpp REQUIRED)
find_package(CLI11 REQUIRED)
find_package(spdlog REQUIRED)
find_package(prometheus-cpp CONFIG REQUIRED)
if(CONCLAVE_BUILD_TESTS)
  find_package(GTest REQUIRED)
  find_package(rapidcheck REQUIRED)
endif()

find_program(CONCLAVE_CCACHE ccache)
if(CONCLAVE_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CONCLAVE_CCACHE})
endif()

# Flags that every target of ours shares. -ffp-contract=off: docs/numerics.md fixes each rounding, so the compiler must
# not fuse a multiplication and an addition that the source keeps apart.
add_library(conclave_flags INTERFACE)
target_include_directories(conclave_flags INTERFACE ${CMAKE_SOURCE_DIR})
# -Wno-restrict: GCC 12 warns falsely when a short literal is assigned to a std::string (GCC bug 105651).
# Clang checks the annotations of shared/base/mutex.h; -precise takes two names of one mutex for two mutexes.
target_compile_options(conclave_flags INTERFACE -Wall -Wextra -Werror -ffp-contract=off
  $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>
  $<$<CXX_COMPILER_ID:Clang>:-Wthread-safety;-Wno-thread-safety-precise>)
if(CONCLAVE_SANITIZER)
  # Under sanitizers GCC warns falsely: of uninitialised values, as its manual says, and of Asio's coroutine frames, whose
  # operators new and delete it inlines unequally. -Wno-tsan: Asio's fences, which the thread sanitizer does not model.
  target_compile_options(conclave_flags INTERFACE
    $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized;-Wno-mismatched-new-delete;-Wno-tsan>
    -fsanitize=${CONCLAVE_SANITIZER} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(conclave_flags INTERFACE -fsanitize=${CONCLAVE_SANITIZER})
endif()
if(CONCLAVE_BUILD_FUZZERS)
  # Coverage counters in everything that a fuzz target may reach.
  target_compile_options(conclave_flags INTERFACE -fsanitize=fuzzer-no-link)
  target_link_options(conclave_flags INTERFACE -fsanitize=fuzzer-no-link)
endif()

function(conclave_library)
  cmake_parse_arguments(ARG "" "NAME" "SRCS;DEPS" ${ARGN})
  if(ARG_SRCS)
    add_library(conclave_${ARG_NAME} STATIC ${ARG_SRCS})
    target_link_libraries(conclave_${ARG_NAME} PUBLIC conclave_flags ${ARG_DEPS})
  else()
    add_library(conclave_${ARG_NAME} INTERFACE)
    target_link_libraries(conclave_${ARG_NAME} INTERFACE conclave_flags ${ARG_DEPS})
  endif()
endfunction()

function(conclave_program)
  cmake_parse_arguments(ARG "" "NAME" "SRCS;DEPS" ${ARGN})
  add_executable(${ARG_NAME} ${ARG_SRCS})
  # The commit's object comes before conclave_base, whose own Commit() says "unknown".
  target_link_libraries(${ARG_NAME} PRIVATE conclave_commit conclave_flags ${ARG_DEPS})
endfunction()

function(conclave_test)
  cmake_parse_arguments(ARG "" "NAME;TIMEOUT" "SRCS;DEPS;LABELS" ${ARGN})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  add_executable(${ARG_NAME} ${ARG_SRCS})
  set_target_properties(${ARG_NAME} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  target_link_libraries(${ARG_NAME} PRIVATE conclave_flags ${ARG_DEPS} GTest::gtest GTest::gmock GTest::gtest_main)
  target_compile_definitions(${ARG_NAME} PRIVATE CONCLAVE_SOURCE_DIR="${CMAKE_SOURCE_DIR}"
    CONCLAVE_BINARY_DIR="${CMAKE_BINARY_DIR}")
  add_test(NAME ${ARG_NAME} COMMAND ${ARG_NAME})
  set_tests_properties(${ARG_NAME} PROPERTIES TIMEOUT ${ARG_TIMEOUT} LABELS "${ARG_LABELS}")
  foreach(label ${ARG_LABELS})
    if(NOT TARGET tests-${label})
      add_custom_target(tests-${label})
    endif()
    add_dependencies(tests-${label} ${ARG_NAME})
  endforeach()
endfunction()

# Generated code goes to <build>/proto and is included as "conclave/v1/NAME.pb.h". It is compiled without our warnings.
function(conclave_proto)
  cmake_parse_arguments(ARG "" "NAME" "PROTOS" ${ARGN})
  set(out ${CMAKE_BINARY_DIR}/proto)
  file(MAKE_DIRECTORY ${out})
  set(generated)
  foreach(proto ${ARG_PROTOS})
    string(REPLACE ".proto" "" stem ${proto})
    add_custom_command(
      OUTPUT ${out}/${stem}.pb.cc ${out}/${stem}.pb.h ${out}/${stem}.grpc.pb.cc ${out}/${stem}.grpc.pb.h
      COMMAND protobuf::protoc --proto_path=${CMAKE_SOURCE_DIR}/proto --cpp_out=${out} --grpc_out=${out}
        --plugin=protoc-gen-grpc=$<TARGET_FILE:gRPC::grpc_cpp_plugin> ${CMAKE_SOURCE_DIR}/proto/${proto}
      DEPENDS ${CMAKE_SOURCE_DIR}/proto/${proto}
      VERBATIM)
    list(APPEND generated ${out}/${stem}.pb.cc ${out}/${stem}.grpc.pb.cc)
  endforeach()
  add_library(conclave_${ARG_NAME} STATIC ${generated})
  target_include_directories(conclave_${ARG_NAME} SYSTEM PUBLIC ${out})
  target_link_libraries(conclave_${ARG_NAME} PUBLIC gRPC::grpc++ protobuf::libprotobuf)
  # Not instrumented by sanitizers: generated code takes minutes there, and says nothing about ours.
endfunction()
