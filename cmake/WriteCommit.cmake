# Writes OUTPUT from TEMPLATE with the commit of SOURCE_DIR, or with CONCLAVE_COMMIT where that is given because the sources
# came without their history. Run at each build; the file's time changes only when its
# text does, so a build without a new commit compiles nothing.
if(NOT CONCLAVE_COMMIT)
  execute_process(
    COMMAND git -C ${SOURCE_DIR} describe --always --dirty --abbrev=12 --exclude=*
    OUTPUT_VARIABLE CONCLAVE_COMMIT OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
endif()
if(NOT CONCLAVE_COMMIT)
  set(CONCLAVE_COMMIT unknown)
endif()
configure_file(${TEMPLATE} ${OUTPUT} @ONLY)
